#include "histogram_log.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <map>
#include <vector>

namespace virtproxy::bench {
namespace {

uint64_t big_endian(const std::vector<uint8_t>& bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = 0; i < size; ++i) value = value << 8 | bytes[at + i];
  return value;
}

// The reading side, written from the format's description: index to count.
std::map<size_t, uint64_t> decode(const std::vector<uint8_t>& packed) {
  EXPECT_EQ(big_endian(packed, 0, 4), 0x1c849314u);
  EXPECT_EQ(big_endian(packed, 4, 4), packed.size() - 8);
  std::vector<uint8_t> plain(1 << 20);
  uLongf size = plain.size();
  EXPECT_EQ(::uncompress(plain.data(), &size, packed.data() + 8, packed.size() - 8), Z_OK);
  plain.resize(size);
  EXPECT_EQ(big_endian(plain, 0, 4), 0x1c849313u);
  EXPECT_EQ(big_endian(plain, 4, 4), plain.size() - 40);
  EXPECT_EQ(big_endian(plain, 12, 4), 2u);                       // significant digits
  EXPECT_EQ(big_endian(plain, 16, 8), 1u);                       // lowest
  EXPECT_EQ(big_endian(plain, 24, 8), (uint64_t{1} << 44) - 1);  // highest
  EXPECT_EQ(big_endian(plain, 32, 8), 0x3ff0000000000000u);      // 1.0
  std::map<size_t, uint64_t> counts;
  size_t index = 0;
  for (size_t at = 40; at < plain.size();) {
    uint64_t raw = 0;
    for (int shift = 0;; shift += 7) {
      const uint8_t byte = plain[at++];
      if (shift == 56) {
        raw |= uint64_t{byte} << shift;
        break;
      }
      raw |= uint64_t{byte & 0x7fu} << shift;
      if ((byte & 0x80) == 0) break;
    }
    const int64_t value = static_cast<int64_t>(raw >> 1) ^ -static_cast<int64_t>(raw & 1);
    if (value < 0) {
      index += static_cast<size_t>(-value);
    } else {
      counts[index++] = static_cast<uint64_t>(value);
    }
  }
  return counts;
}

TEST(HistogramLog, CountsComeBack) {
  Histogram histogram;
  std::map<size_t, uint64_t> expected;
  const auto record = [&](uint64_t value, uint64_t times) {
    for (uint64_t i = 0; i < times; ++i) histogram.record(value);
    expected[Histogram::bucket_of(value)] += times;
  };
  record(0, 1);
  record(1, 63);
  record(2, 64);
  record(255, 1);
  record(256, 8191);
  record(1'000'000, 8192);
  record((uint64_t{1} << 44) - 1, 100'000);
  EXPECT_EQ(decode(encode_histogram(histogram)), expected);
  EXPECT_TRUE(decode(encode_histogram(Histogram())).empty());
}

TEST(HistogramLog, Base64IsPadded) {
  EXPECT_EQ(base64({}), "");
  EXPECT_EQ(base64({'f'}), "Zg==");
  EXPECT_EQ(base64({'f', 'o'}), "Zm8=");
  EXPECT_EQ(base64({'f', 'o', 'o'}), "Zm9v");
  EXPECT_EQ(base64({0xff, 0xef, 0xbe, 0x00}), "/+++AA==");
}

}  // namespace
}  // namespace virtproxy::bench
