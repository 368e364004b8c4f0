// Counts durations in fixed buckets, for the histograms of the metrics.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/time.h"

namespace virtproxy {

class DurationHistogram {
 public:
  // Upper bounds, from the time of a turn to that of a long session; what is longer is counted
  // behind the last one.
  static constexpr std::array<Duration, 16> kBounds{
      std::chrono::microseconds(10),  std::chrono::microseconds(30),
      std::chrono::microseconds(100), std::chrono::microseconds(300),
      std::chrono::milliseconds(1),   std::chrono::milliseconds(3),
      std::chrono::milliseconds(10),  std::chrono::milliseconds(30),
      std::chrono::milliseconds(100), std::chrono::milliseconds(300),
      std::chrono::seconds(1),        std::chrono::seconds(3),
      std::chrono::seconds(10),       std::chrono::seconds(30),
      std::chrono::seconds(100),      std::chrono::seconds(1000)};

  void add(Duration duration) {
    size_t bucket = 0;
    while (bucket < kBounds.size() && duration > kBounds[bucket]) ++bucket;
    ++counts_[bucket];
    sum_ += duration;
  }

  // Of one bucket alone; the last one has no bound.
  uint64_t count(size_t bucket) const { return counts_[bucket]; }
  Duration sum() const { return sum_; }

 private:
  std::array<uint64_t, kBounds.size() + 1> counts_{};
  Duration sum_{};
};

}  // namespace virtproxy
