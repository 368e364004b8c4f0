// Latency histogram in the manner of HDR: log-linear buckets.
//
// Values below 256 have a bucket each; every power of two above is cut into 128 equal buckets, so
// that a reported value is never off by more than 1/128 (0.8 %). Recording is an index computation
// and an increment; nothing is ever allocated after construction. Minimum, maximum and mean are
// exact. Values above the range are counted in the last bucket, and still show in the maximum.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace virtproxy::bench {

class Histogram {
 public:
  static constexpr int kSubBits = 7;
  static constexpr int kMaxBits = 44;  // nanoseconds: nearly five hours

  Histogram() : buckets_(bucket_of((uint64_t{1} << kMaxBits) - 1) + 1) {}

  void record(uint64_t value) {
    size_t bucket = bucket_of(value);
    if (bucket >= buckets_.size()) bucket = buckets_.size() - 1;
    ++buckets_[bucket];
    ++count_;
    sum_ += static_cast<double>(value);
    if (value < min_) min_ = value;
    if (value > max_) max_ = value;
  }

  void merge(const Histogram& other);

  uint64_t count() const { return count_; }
  uint64_t min() const { return count_ == 0 ? 0 : min_; }
  uint64_t max() const { return max_; }
  // Counts by bucket_of().
  const std::vector<uint64_t>& buckets() const { return buckets_; }
  double mean() const { return count_ == 0 ? 0.0 : sum_ / static_cast<double>(count_); }

  // The largest value that falls into the bucket where `percent` of all values have been seen,
  // never above the maximum; 0 when nothing was recorded.
  uint64_t percentile(double percent) const;

  static constexpr size_t bucket_of(uint64_t value) {
    const uint64_t at_least = value | ((uint64_t{2} << kSubBits) - 1);
    const size_t magnitude = static_cast<size_t>(std::bit_width(at_least)) - 1 - kSubBits;
    return (magnitude << kSubBits) + static_cast<size_t>(value >> magnitude);
  }
  static constexpr uint64_t highest_in(size_t bucket) {
    if (bucket < (size_t{2} << kSubBits)) return bucket;
    const size_t magnitude = (bucket >> kSubBits) - 1;
    const uint64_t base = (bucket & ((size_t{1} << kSubBits) - 1)) + (uint64_t{1} << kSubBits);
    return ((base + 1) << magnitude) - 1;
  }

 private:
  std::vector<uint64_t> buckets_;
  uint64_t count_ = 0;
  double sum_ = 0;
  uint64_t min_ = std::numeric_limits<uint64_t>::max();
  uint64_t max_ = 0;
};

}  // namespace virtproxy::bench
