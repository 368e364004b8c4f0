// Lines a second, as they are now: a mean in which what is 10 s old counts 1/e.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>

#include "core/time.h"

namespace virtproxy {

// One thread notes, any thread reads.
class LineRate {
 public:
  // There were `total` lines by `now`.
  void note(uint64_t total, Instant now) {
    if (total == total_) return;
    // Of the first lines nothing is known of the time before: they count as if they came now.
    const Instant::rep noted = noted_;
    const double past = noted == 0 ? 0 : seconds_of(now - Instant(noted)) / kMean;
    const double share = past > 1e-6 ? (1 - std::exp(-past)) / past : 1;
    const double more = static_cast<double>(total - total_) / kMean * share;
    total_ = total;
    rate_ = rate_ * std::exp(-past) + more;
    noted_ = now.count();
  }
  uint64_t per_second(Instant now) const {
    const double past = seconds_of(now - Instant(noted_.load())) / kMean;
    return static_cast<uint64_t>(std::llround(rate_ * std::exp(-std::max(past, 0.0))));
  }

 private:
  static constexpr double kMean = 10;  // seconds

  uint64_t total_ = 0;
  std::atomic<double> rate_{0};
  std::atomic<Instant::rep> noted_{0};
};

}  // namespace virtproxy
