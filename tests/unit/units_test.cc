#include "uring/base/units.h"

#include <gtest/gtest.h>

namespace virtproxy {
namespace {

TEST(NumberTest, TheWholeTextAndNoSign) {
  EXPECT_EQ(parse_number<uint16_t>("65535"), 65535U);
  EXPECT_EQ(parse_number<uint32_t>("0660", 8), 0660U);
  EXPECT_EQ(parse_number<uint32_t>("007"), 7U);
  for (const char* bad : {"", "65536", "-1", "+1", " 1", "1 ", "1x", "0x1", "1.0"}) {
    EXPECT_FALSE(parse_number<uint16_t>(bad)) << bad;
  }
}

TEST(CountTest, WhatIsTooLargeIsLeftToTheRange) {
  EXPECT_EQ(parse_count("12"), 12U);
  EXPECT_EQ(parse_count("99999999999999999999999"), UINT64_MAX);
  for (const char* bad : {"", "-1", "1x", "99999999999999999999999x", "many"}) {
    ASSERT_FALSE(parse_count(bad)) << bad;
    EXPECT_EQ(parse_count(bad).error(), "'" + std::string(bad) + "' is not a number");
  }
}

TEST(SizeTest, Units) {
  EXPECT_EQ(parse_size("0"), 0U);
  EXPECT_EQ(parse_size("4096"), 4096U);
  EXPECT_EQ(parse_size("4K"), 4096U);
  EXPECT_EQ(parse_size("4k"), 4096U);
  EXPECT_EQ(parse_size("4KiB"), 4096U);
  EXPECT_EQ(parse_size("3M"), 3U << 20);
  EXPECT_EQ(parse_size("2G"), uint64_t{2} << 30);
  EXPECT_EQ(parse_size("1T"), uint64_t{1} << 40);
  EXPECT_EQ(parse_size("18446744073709551615"), UINT64_MAX);
  for (const char* bad : {"", "K", "1.5M", "1 M", " 1M", "1Mi", "1B", "1MB", "0x10", "+1",
                          "18446744073709551616", "17179869184G"}) {
    EXPECT_FALSE(parse_size(bad)) << bad;
  }
  EXPECT_EQ(format_size(0), "0");
  EXPECT_EQ(format_size(4096), "4K");
  EXPECT_EQ(format_size(4097), "4097");
  EXPECT_EQ(format_size(uint64_t{1} << 40), "1T");
  EXPECT_EQ(format_size(uint64_t{1536} << 20), "1536M");
}

TEST(SecondsTest, Units) {
  EXPECT_EQ(parse_seconds("10"), 10.0);
  EXPECT_EQ(parse_seconds("0.25"), 0.25);
  EXPECT_EQ(parse_seconds("1.5s"), 1.5);
  EXPECT_EQ(parse_seconds("250ms"), 0.25);
  EXPECT_EQ(parse_seconds("2m"), 120.0);
  for (const char* bad : {"", "s", "1h", "1e3", "inf", "nan", "1 s", "+1", "0x1"}) {
    EXPECT_FALSE(parse_seconds(bad)) << bad;
  }
}

}  // namespace
}  // namespace virtproxy
