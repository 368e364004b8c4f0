// The memory that streams of one session may borrow beyond their promised initial window. A stream's
// loan is what it can still make this end hold (granted, not yet taken by its socket) above that
// window. The sum of all loans never exceeds the fund, whatever peers send and readers leave lying.
#pragma once

#include <cstdint>

#include "core/assert.h"

namespace virtproxy {

class Budget {
 public:
  explicit Budget(uint64_t fund) : fund_(fund) {}

  uint64_t lent() const { return lent_; }
  uint64_t available() const { return fund_ - lent_; }

  // Windows grow while at most half the fund is lent and shrink above three quarters of it: the gap
  // keeps them from swinging, and leaves newcomers something to grow with.
  bool plentiful() const { return lent_ <= fund_ / 2; }
  bool scarce() const { return lent_ > fund_ / 4 * 3; }

  void change_loan(uint64_t before, uint64_t after) {
    VP_ASSERT(before <= lent_);
    lent_ = lent_ - before + after;
    VP_ASSERT(lent_ <= fund_);
  }

 private:
  uint64_t fund_;
  uint64_t lent_ = 0;
};

}  // namespace virtproxy
