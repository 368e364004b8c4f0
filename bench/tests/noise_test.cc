#include "noise.h"

#include <gtest/gtest.h>

#include "clock.h"

namespace virtproxy::bench {
namespace {

std::vector<Tick> steady(int count) {
  std::vector<Tick> ticks;
  for (int i = 0; i <= count; ++i) {
    ticks.push_back({i * 50 * kMillisecond, static_cast<uint64_t>(i) * 1000});
  }
  return ticks;
}

TEST(Noise, SteadyRunIsQuiet) {
  NoiseResult noise;
  judge_noise(steady(100), true, noise);
  EXPECT_EQ(noise.intervals.size(), 8u);
  EXPECT_LT(noise.spread, 0.01);
  EXPECT_TRUE(noise.reasons.empty());
}

TEST(Noise, ShortRunIsNotJudged) {
  NoiseResult noise;
  judge_noise(steady(4), true, noise);
  EXPECT_FALSE(noise.judged());
  judge_noise({}, true, noise);
  EXPECT_FALSE(noise.judged());
}

TEST(Noise, PauseShowsAsSpread) {
  std::vector<Tick> ticks = steady(100);
  for (size_t i = 50; i < ticks.size(); ++i) ticks[i].moved -= 6000;
  NoiseResult noise;
  judge_noise(ticks, true, noise);
  EXPECT_GT(noise.spread, NoiseResult::kMaxSpread);
  EXPECT_EQ(noise.reasons.size(), 1u);
}

TEST(Noise, StealIsAReason) {
  NoiseResult noise;
  noise.steal = 0.05;
  judge_noise(steady(100), true, noise);
  EXPECT_EQ(noise.reasons.size(), 1u);
}

// An idle proxy on an io_uring makes it half of a processor.
TEST(Noise, IowaitIsNoReason) {
  NoiseResult noise;
  noise.iowait = 0.5;
  judge_noise(steady(100), true, noise);
  EXPECT_TRUE(noise.reasons.empty());
}

TEST(Noise, SwitchesCountOnlyWhenJudged) {
  NoiseResult noise;
  noise.involuntary = 1e6;
  judge_noise(steady(100), false, noise);
  EXPECT_TRUE(noise.reasons.empty());
  judge_noise(steady(100), true, noise);
  EXPECT_EQ(noise.reasons.size(), 1u);
}

}  // namespace
}  // namespace virtproxy::bench
