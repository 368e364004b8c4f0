#include "histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace virtproxy::bench {
namespace {

TEST(Histogram, EmptyIsAllZero) {
  const Histogram h;
  EXPECT_EQ(h.count(), 0u);
  EXPECT_EQ(h.min(), 0u);
  EXPECT_EQ(h.max(), 0u);
  EXPECT_EQ(h.percentile(99), 0u);
  EXPECT_EQ(h.mean(), 0);
}

TEST(Histogram, SmallValuesAreExact) {
  Histogram h;
  for (uint64_t v = 0; v < 200; ++v) h.record(v);
  EXPECT_EQ(h.percentile(50), 99u);
  EXPECT_EQ(h.percentile(100), 199u);
  EXPECT_EQ(h.percentile(0), 0u);
  EXPECT_EQ(h.min(), 0u);
  EXPECT_DOUBLE_EQ(h.mean(), 99.5);
}

TEST(Histogram, BucketsAreContiguousAndTight) {
  size_t previous = 0;
  for (uint64_t v = 1; v < 1'000'000; ++v) {
    const size_t bucket = Histogram::bucket_of(v);
    ASSERT_TRUE(bucket == previous || bucket == previous + 1) << v;
    const uint64_t highest = Histogram::highest_in(bucket);
    ASSERT_GE(highest, v);
    ASSERT_EQ(Histogram::bucket_of(highest), bucket);
    ASSERT_EQ(Histogram::bucket_of(highest + 1), bucket + 1);
    ASSERT_LE(static_cast<double>(highest - v), static_cast<double>(v) / 128) << v;
    previous = bucket;
  }
}

TEST(Histogram, PercentilesMatchSortedValues) {
  std::mt19937_64 random(7);
  std::lognormal_distribution<double> distribution(10, 2);
  std::vector<uint64_t> values(100'000);
  Histogram h;
  for (uint64_t& v : values) h.record(v = static_cast<uint64_t>(distribution(random)));
  std::sort(values.begin(), values.end());
  for (const double percent : {1.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0}) {
    const auto rank =
        static_cast<size_t>(std::ceil(percent / 100 * static_cast<double>(values.size())));
    const auto exact = static_cast<double>(values[rank - 1]);
    EXPECT_NEAR(static_cast<double>(h.percentile(percent)), exact, exact / 128 + 1) << percent;
  }
  EXPECT_EQ(h.max(), values.back());
  EXPECT_EQ(h.min(), values.front());
}

TEST(Histogram, ValuesBeyondTheRangeShowInTheMaximum) {
  Histogram h;
  h.record(UINT64_MAX);
  EXPECT_EQ(h.max(), UINT64_MAX);
  EXPECT_EQ(h.percentile(50), UINT64_MAX);
}

TEST(Histogram, MergeEqualsRecordingTogether) {
  Histogram a, b, both;
  for (uint64_t v = 1; v < 5000; v += 3) a.record(v), both.record(v);
  for (uint64_t v = 100; v < 900'000; v += 77) b.record(v), both.record(v);
  a.merge(b);
  EXPECT_EQ(a.count(), both.count());
  EXPECT_EQ(a.min(), both.min());
  EXPECT_EQ(a.max(), both.max());
  EXPECT_DOUBLE_EQ(a.mean(), both.mean());
  for (const double percent : {1.0, 50.0, 99.0}) {
    EXPECT_EQ(a.percentile(percent), both.percentile(percent));
  }
}

}  // namespace
}  // namespace virtproxy::bench
