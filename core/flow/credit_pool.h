// The memory that streams of one session may borrow beyond their promised initial window. A
// stream's loan is what it can still make this end hold (granted, not yet taken by its socket)
// above that window. The sum of all loans never exceeds the fund, whatever peers send and readers
// leave lying.
#pragma once

#include <cstdint>

#include "core/assert.h"

namespace virtproxy {

class Budget {
 public:
  explicit Budget(uint64_t fund) : fund_(fund) {}

  uint64_t lent() const { return lent_; }

  // The most that a stream which has `own` on loan now may borrow: as much as it leaves to others.
  // So n busy streams converge to a share of 1/(n+1) each, and a newcomer always finds something.
  uint64_t share(uint64_t own) const {
    VP_ASSERT(own <= lent_);
    return (fund_ - (lent_ - own)) / 2;
  }

  void change_loan(uint64_t before, uint64_t after) {
    VP_ASSERT(before <= lent_);
    lent_ = lent_ - before + after;
    VP_ASSERT(lent_ <= fund_);
  }

  // The streams are gone, and all their loans.
  void forget_loans() { lent_ = 0; }

 private:
  uint64_t fund_;
  uint64_t lent_ = 0;
};

}  // namespace virtproxy
