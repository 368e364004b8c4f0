// The clock that does not pass while the process is stopped.
#include "uring/base/running_clock.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <thread>

#include "uring/base/patience.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kShort = milliseconds(10);
// More than a clock goes on by beyond the end of a sleep.
constexpr Duration kPause = milliseconds(300);
constexpr Duration kLate = milliseconds(100);

TEST(RunningClock, GoesOnWithTheMonotonicClock) {
  RunningClock clock;
  const Instant begun = clock.now();
  const Instant until = clock.sleep_until(begun + kShort);
  std::this_thread::sleep_for(kShort);
  clock.woke(until);
  EXPECT_GE(clock.now() - begun, kShort);
}

TEST(RunningClock, APauseInASleepEndsWithIt) {
  RunningClock clock;
  const Instant begun = clock.now();
  const Instant until = clock.sleep_until(begun + kShort);
  std::this_thread::sleep_for(kPause);
  clock.woke(until);
  EXPECT_EQ(clock.now() - begun, kShort + kLate);
}

TEST(RunningClock, APauseWhileItRunsCountsLittle) {
  RunningClock clock;
  const Instant begun = clock.now();
  std::this_thread::sleep_for(kPause);
  EXPECT_GE(clock.spent(), kPause);
  clock.woke(begun - seconds(1));
  EXPECT_EQ(clock.now() - begun, kLate);
}

TEST(RunningClock, WorkCounts) {
  RunningClock clock;
  const Instant begun = clock.now();
  std::this_thread::sleep_for(kPause);
  clock.woke(begun, kPause);
  EXPECT_GE(clock.now() - begun, kPause);
}

TEST(RunningClock, ASleepWithoutALimitIsNotCut) {
  RunningClock clock;
  const Instant begun = clock.now();
  std::this_thread::sleep_for(kPause);
  clock.woke(std::nullopt);
  EXPECT_GE(clock.now() - begun, kPause);
}

// Whenever the pause begins, and however long it is: half of the limit is left, or has been there.
TEST(RunningClock, NoPauseTakesMoreThanHalfOfWhatIsLeft) {
  RunningClock clock;
  const Instant limit = clock.now() + seconds(10);
  EXPECT_EQ(clock.sleep_until(limit), clock.now() + seconds(5));
  const Instant soon = clock.now() + milliseconds(400);
  EXPECT_EQ(clock.sleep_until(soon), soon) << "so short a sleep is not worth two";
}

// After a pause the monotonic time of a limit is later.
TEST(RunningClock, SleepsByTheMonotonicClock) {
  RunningClock clock;
  const Instant begun = clock.now();
  std::this_thread::sleep_for(kPause);
  clock.woke(begun);
  EXPECT_EQ(clock.sleep_until(clock.now() + kShort), clock.woke_at() + kShort);
}

TEST(Patience, IsOverWhenItsLimitHasPassed) {
  Patience patience(kShort);
  EXPECT_TRUE(patience.wait(2 * kShort));
  errno = EADDRINUSE;
  EXPECT_FALSE(patience.wait(kShort));
  EXPECT_EQ(errno, EADDRINUSE);
  EXPECT_GE(patience.waited(), 2 * kShort);
}

TEST(Patience, IsNotOverForAPause) {
  Patience patience(milliseconds(250));
  std::this_thread::sleep_for(kPause);
  EXPECT_TRUE(patience.wait(kShort)) << "the clock has not been looked at since";
  EXPECT_LE(patience.waited(), kShort + kLate);
  EXPECT_TRUE(patience.wait(kShort));
}

}  // namespace
}  // namespace virtproxy
