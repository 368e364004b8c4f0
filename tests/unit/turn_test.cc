// What one turn of the loop does at most, and the list that lets an object leave in constant time.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "uring/base/list.h"
#include "uring/io/io_uring_driver.h"
#include "uring/io/loop.h"
#include "uring/io/timers.h"

namespace virtproxy {
namespace {

struct Owner final : Timer::Owner {
  void expired(Timer& timer) override { seen.push_back(&timer); }
  std::vector<Timer*> seen;
};

TEST(Timers, ThoseOfOneInstantExpireSomeEachTurnInTheirOrder) {
  constexpr size_t kTimers = 1000;
  constexpr unsigned kPerTurn = 64;
  const Instant due{std::chrono::seconds(1)};
  Timers timers;
  Owner owner;
  std::vector<std::unique_ptr<Timer>> set;
  for (size_t i = 0; i < kTimers; ++i) {
    set.push_back(std::make_unique<Timer>(timers, &owner));
    set.back()->set(due);
  }
  timers.expire(due - Duration(1), kPerTurn);
  EXPECT_TRUE(owner.seen.empty());
  for (size_t turn = 1; owner.seen.size() < kTimers; ++turn) {
    ASSERT_EQ(timers.next(), due) << "the next turn does not sleep";
    timers.expire(due, kPerTurn);
    ASSERT_EQ(owner.seen.size(), std::min<size_t>(kTimers, turn * kPerTurn));
  }
  EXPECT_FALSE(timers.next());
  for (size_t i = 0; i < kTimers; ++i) ASSERT_EQ(owner.seen[i], set[i].get());
}

std::unique_ptr<Loop> make_loop() {
  auto ring = IoUringDriver::open(64, {});
  return ring ? std::make_unique<Loop>(std::move(*ring)) : nullptr;
}

TEST(TurnBudget, EndsWithItsNumberOrItsTime) {
  const auto loop = make_loop();
  if (!loop) GTEST_SKIP() << "no ring here";
  TurnBudget few(*loop, 3, std::chrono::hours(1));
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(few.left());
    few.spend();
  }
  EXPECT_FALSE(few.left());

  TurnBudget no_time(*loop, 1000, Duration(-1));
  EXPECT_TRUE(no_time.left()) << "one piece of work gets done";
  no_time.spend();
  EXPECT_FALSE(no_time.left());
}

struct Slow final : Loop::Deferred {
  explicit Slow(Loop& l) : loop(l) {}
  void run_deferred() override {
    while (loop.spent() < kTime) {
    }
  }
  static constexpr Duration kTime = std::chrono::milliseconds(20);
  Loop& loop;
};

TEST(Loop, TellsItsLongestTurnOnce) {
  const auto loop = make_loop();
  if (!loop) GTEST_SKIP() << "no ring here";
  Slow slow(*loop);
  loop->defer(&slow);
  ASSERT_EQ(loop->turn(), 0);
  loop->hurry();
  ASSERT_EQ(loop->turn(), 0);
  EXPECT_GE(loop->take_longest(), Slow::kTime);
  EXPECT_EQ(loop->take_longest(), Duration::zero());
}

// What needs `turns` turns, in the first of which the process is stopped.
struct Steps final : Loop::Deferred {
  Steps(Loop& l, Duration pause, int turns) : loop(l), stopped(pause), left(turns) {}
  void run_deferred() override {
    std::this_thread::sleep_for(std::exchange(stopped, {}));
    if (--left > 0) loop.defer(this);
  }
  Loop& loop;
  Duration stopped;
  int left;
};

TEST(Loop, ALimitThatPassedWhileTheProcessWasStoppedLeavesItItsTurns) {
  const auto loop = make_loop();
  if (!loop) GTEST_SKIP() << "no ring here";
  constexpr Duration kLimit = std::chrono::milliseconds(500);
  Steps steps(*loop, 3 * kLimit, 8);
  loop->defer(&steps);
  EXPECT_EQ(loop->turn_until(kLimit, [&] { return steps.left == 0; }), Loop::Waited::kDone);
}

TEST(Loop, WhatNeverComesIsLate) {
  const auto loop = make_loop();
  if (!loop) GTEST_SKIP() << "no ring here";
  EXPECT_EQ(loop->turn_until(std::chrono::milliseconds(20), [] { return false; }),
            Loop::Waited::kLate);
}

struct Item {
  ListLink<Item> link;
};

TEST(List, KeepsItsOrderWhoeverLeaves) {
  std::mt19937 random(1);
  std::vector<Item> items(50);
  List<Item, &Item::link> list;
  std::vector<Item*> model;
  for (int step = 0; step < 20'000; ++step) {
    Item* item = &items[random() % items.size()];
    if (item->link.linked) {
      list.erase(item);
      std::erase(model, item);
    } else {
      list.push_back(item);
      model.push_back(item);
    }
    ASSERT_EQ(list.size(), model.size());
    ASSERT_EQ(list.front(), model.empty() ? nullptr : model.front());
    size_t at = 0;
    for (Item* seen = list.front(); seen != nullptr; seen = seen->link.next) {
      ASSERT_EQ(seen, model[at++]);
    }
    ASSERT_EQ(at, model.size());
  }
}

}  // namespace
}  // namespace virtproxy
