#pragma once

#include <cstdint>
#include <optional>

#include "clock.h"

namespace virtproxy::bench {

// The arrivals of an open-loop load: one every 1/rate seconds from the start on, whatever the
// answers do. Latency counts from the time a message was due, not from when it could be sent, so a
// stall shows in every message that it delayed (no coordinated omission).
class Pacer {
 public:
  explicit Pacer(double rate) : interval_(rate > 0 ? static_cast<double>(kSecond) / rate : 0) {}

  bool paced() const { return interval_ > 0; }
  void start(int64_t now) { start_ = next_ = now; }
  int64_t next() const { return next_; }

  // The due time of the oldest arrival that nobody has taken yet.
  std::optional<int64_t> take(int64_t now) {
    if (next_ > now) return std::nullopt;
    const int64_t due = next_;
    next_ = start_ + static_cast<int64_t>(static_cast<double>(++taken_) * interval_);
    return due;
  }

  // How many arrivals are due and not taken.
  uint64_t backlog(int64_t now) const {
    if (!paced() || next_ > now) return 0;
    return static_cast<uint64_t>(static_cast<double>(now - next_) / interval_) + 1;
  }

 private:
  double interval_;
  int64_t start_ = 0;
  int64_t next_ = 0;
  uint64_t taken_ = 0;
};

}  // namespace virtproxy::bench
