// A program that acknowledges lines, as its sink sees it.
#include <time.h>

#include <algorithm>
#include <string>
#include <utility>

#include "tests/unit/sink_fixture.h"

namespace virtproxy {
namespace {

Duration processor_time() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

using ExecSinkTest = SinkTest;
INSTANTIATE_TEST_SUITE_P(Driver, ExecSinkTest, kDrivers, name_of_choice);

// The write that fails comes before the answer was read.
TEST_P(ExecSinkTest, WhatAProgramAcknowledgedBeforeItBrokeOffIsSafe) {
  const std::string program = script("read -r line; echo ACK 1; exec <&-; : > '" +
                                     in_folder("closed") + "'; exec sleep 1000\n");
  open("exec:" + program);
  ASSERT_TRUE(run([&] { return sink_->counters().up.load(); }));
  give("one");
  sink_->flush();
  ASSERT_TRUE(wait_for_file("closed"));
  // Each process that had the reading end of the pipe closes it in its own time.
  ASSERT_TRUE(run([&] {
    give("two");
    sink_->flush();
    return !sink_->counters().up.load();
  })) << "it has closed its input";
  EXPECT_EQ(sink_->safe(), 1u);
}

TEST_P(ExecSinkTest, AProgramThatClosesItsInputIsFoundWithoutAnotherLine) {
  open("exec:" + script("read -r line; exec sleep 1000 <&-\n"));
  ASSERT_TRUE(run([&] { return sink_->counters().up.load(); }));
  give("one");
  sink_->flush();
  EXPECT_TRUE(run([&] { return !sink_->counters().up.load(); }));
  EXPECT_EQ(sink_->safe(), 0u);
}

TEST_P(ExecSinkTest, AProgramThatAnswersWithoutEndLeavesTheOthersTheirTurn) {
  open("exec:" + script("exec yes 'ACK 0'\n"));
  ASSERT_TRUE(run([&] { return sink_->counters().up.load(); }));
  Duration longest{};  // of a turn, processor time
  Duration before = processor_time();
  EXPECT_FALSE(run(
      [&] {
        const Duration now = processor_time();
        longest = std::max(longest, now - std::exchange(before, now));
        return false;
      },
      std::chrono::milliseconds(500)));
  EXPECT_LT(longest, std::chrono::milliseconds(20));
  EXPECT_TRUE(sink_->counters().up);
}

}  // namespace
}  // namespace virtproxy
