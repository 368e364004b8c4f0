// The credit that the streams of one session may borrow beyond their promised initial window.
//
// A stream has borrowed the part above that window of what this end may come to hold for it: what
// was granted and its socket has not consumed. All streams together never borrow more than the
// capacity, whatever peers send and readers leave unread. All values are in bytes.
#pragma once

#include <cstdint>

#include "core/assert.h"

namespace virtproxy {

class CreditPool {
 public:
  explicit CreditPool(uint64_t capacity) : capacity_(capacity) {}

  uint64_t borrowed() const { return borrowed_; }

  // The most that a stream which borrows `own` now may borrow: half of what the others do not. So n
  // busy streams converge to 1/(n+1) of the capacity each, and a new stream always finds some.
  uint64_t share(uint64_t own) const {
    VP_ASSERT(own <= borrowed_);
    return (capacity_ - (borrowed_ - own)) / 2;
  }

  void change_borrowed(uint64_t before, uint64_t after) {
    VP_ASSERT(before <= borrowed_);
    borrowed_ = borrowed_ - before + after;
    VP_ASSERT(borrowed_ <= capacity_);
  }

  // All streams have ended: nothing is borrowed.
  void forget_borrowed() { borrowed_ = 0; }

 private:
  uint64_t capacity_;
  uint64_t borrowed_ = 0;
};

}  // namespace virtproxy
