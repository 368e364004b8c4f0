#include "uring/io/repeat_limit.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "uring/io/epoll_driver.h"
#include "uring/io/loop.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;

constexpr Duration kWindow = milliseconds(60);

class RepeatLimitTest : public testing::Test {
 protected:
  void SetUp() override {
    auto driver = EpollDriver::open({});
    ASSERT_TRUE(driver);
    loop_ = std::make_unique<Loop>(*std::move(driver));
    limit_ = std::make_unique<RepeatLimit<std::string>>(
        *loop_, RepeatRule{2, kWindow},
        [this](const std::string& text, uint64_t count, Counted counted) {
          said_.push_back(text + and_counted(count, counted));
        });
  }

  void report(const std::string& subject, const std::string& text) {
    limit_->report(subject, [&] {
      ++made_;
      return text;
    });
  }
  // Turns until so many reports were said, or a second has passed.
  void turn_until(size_t said) {
    for (int turns = 0; turns < 200 && said_.size() < said; ++turns) turn();
  }
  void turn() {
    usleep(5000);
    loop_->hurry();
    ASSERT_EQ(loop_->turn(), 0);
  }

  // The limit says what it holds when it is destroyed: what that goes to outlives it.
  std::vector<std::string> said_;
  unsigned made_ = 0;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<RepeatLimit<std::string>> limit_;
};

using Said = std::vector<std::string>;

TEST_F(RepeatLimitTest, OneSubjectDoesNotHideAnother) {
  for (int i = 0; i < 1000; ++i) report("flood", "flood " + std::to_string(i));
  report("once", "once");
  EXPECT_EQ(said_, (Said{"flood 0", "flood 1", "once"}));
  EXPECT_EQ(made_, 4U) << "of what is only counted no text is made";
}

TEST_F(RepeatLimitTest, WhatIsHeldIsSaidWhenNoOtherComes) {
  const uint64_t before = log_lines_suppressed();
  for (int i = 0; i < 10; ++i) report("a", std::to_string(i));
  EXPECT_EQ(log_lines_suppressed() - before, 7U);
  turn_until(3);
  EXPECT_EQ(said_, (Said{"0", "1", "2 (and 7 alike)"}));
}

TEST_F(RepeatLimitTest, GoesOnWithOneAWindowUntilOnePassesWithout) {
  for (int i = 0; i < 4; ++i) report("a", "first");
  turn_until(3);
  report("a", "second");
  EXPECT_EQ(said_.size(), 3U);
  turn_until(4);
  EXPECT_EQ(said_.back(), "second") << "the only one";
  const Instant said_at = loop_->now();
  while (loop_->now() < said_at + kWindow) turn();
  report("a", "third");
  EXPECT_EQ(said_.back(), "third") << "the subject was forgotten";
  EXPECT_EQ(said_.size(), 5U);
}

TEST_F(RepeatLimitTest, SubjectsBeyondTheBoundAreOne) {
  for (int i = 0; i < 1000; ++i) report("subject " + std::to_string(i), std::to_string(i));
  constexpr size_t kKept = RepeatLimit<std::string>::kMostSubjects;
  ASSERT_EQ(said_.size(), kKept + 2);
  limit_.reset();
  ASSERT_EQ(said_.size(), kKept + 3) << "at the end what is held is said";
  EXPECT_EQ(said_.back(), "34 (and 965 others)");
}

}  // namespace
}  // namespace virtproxy
