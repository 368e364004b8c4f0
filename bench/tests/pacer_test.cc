#include "pacer.h"

#include <gtest/gtest.h>

namespace virtproxy::bench {
namespace {

TEST(Pacer, ClosedLoopIsNotPaced) {
  const Pacer pacer(0);
  EXPECT_FALSE(pacer.paced());
  EXPECT_EQ(pacer.backlog(kSecond), 0u);
}

TEST(Pacer, ArrivalsKeepTheirTimesWhenTakenLate) {
  Pacer pacer(1000);
  pacer.start(5);
  EXPECT_EQ(pacer.take(4), std::nullopt);
  EXPECT_EQ(pacer.take(5), 5);
  EXPECT_EQ(pacer.take(5), std::nullopt);
  const int64_t late = 5 + 3 * kMillisecond;
  EXPECT_EQ(pacer.backlog(late), 3u);
  for (int64_t i = 1; i <= 3; ++i) EXPECT_EQ(pacer.take(late), 5 + i * kMillisecond);
  EXPECT_EQ(pacer.take(late), std::nullopt);
  EXPECT_EQ(pacer.backlog(late), 0u);
}

TEST(Pacer, AwkwardRatesDoNotDrift) {
  Pacer pacer(3);
  pacer.start(0);
  int64_t last = 0;
  for (int i = 0; i <= 3'000'000; ++i) last = *pacer.take(INT64_MAX);
  EXPECT_NEAR(static_cast<double>(last), 1e6 * kSecond, 1000);
}

}  // namespace
}  // namespace virtproxy::bench
