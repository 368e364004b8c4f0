// The credit that the streams of one session may borrow beyond their promised initial window. A
// stream has borrowed what it can still make this end hold (granted, not yet consumed by its
// socket) above that window. All streams together never borrow more than the capacity, whatever
// peers send and readers leave unread.
#pragma once

#include <cstdint>

#include "core/assert.h"

namespace virtproxy {

class CreditPool {
 public:
  explicit CreditPool(uint64_t capacity) : capacity_(capacity) {}

  uint64_t borrowed() const { return borrowed_; }

  // The most a stream that borrows `own` now may borrow: as much as it leaves to others.
  // So n busy streams converge to a share of 1/(n+1) each, and a newcomer always finds something.
  uint64_t share(uint64_t own) const {
    VP_ASSERT(own <= borrowed_);
    return (capacity_ - (borrowed_ - own)) / 2;
  }

  void change_borrowed(uint64_t before, uint64_t after) {
    VP_ASSERT(before <= borrowed_);
    borrowed_ = borrowed_ - before + after;
    VP_ASSERT(borrowed_ <= capacity_);
  }

  // The streams are gone, and with them all that they borrowed.
  void forget_borrowed() { borrowed_ = 0; }

 private:
  uint64_t capacity_;
  uint64_t borrowed_ = 0;
};

}  // namespace virtproxy
