#pragma once

#include <cstdint>

#include "clock.h"

namespace virtproxy::bench {

// Tells when a value has not changed for a given time.
class StallWatch {
 public:
  StallWatch(int64_t now, uint64_t value) : changed_at_(now), value_(value) {}

  // `idle`: nothing is expected to change just now.
  bool stalled(int64_t now, uint64_t value, bool idle, double limit_seconds) {
    if (idle || value != value_) changed_at_ = now;
    value_ = value;
    return static_cast<double>(now - changed_at_) > limit_seconds * kSecond;
  }

 private:
  int64_t changed_at_;
  uint64_t value_;
};

}  // namespace virtproxy::bench
