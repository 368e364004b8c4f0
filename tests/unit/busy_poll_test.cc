#include "uring/io/busy_poll.h"

#include <gtest/gtest.h>

#include <functional>

namespace virtproxy {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

struct Talk {
  int looks = 0;
  Duration in_vain{};
};

// One conversation of so many messages; `took` says how long the look for the n-th answer takes.
Talk converse(BusyPoll& poll, int messages, const std::function<Duration(int)>& took) {
  Talk talk;
  for (int n = 0; n < messages; ++n) {
    if (!poll.worth_it(true)) continue;
    ++talk.looks;
    const Duration time = took(n);
    poll.spun(time);
    if (time > BusyPoll::kLongest) talk.in_vain += time;
  }
  return talk;
}

Duration at_once(int) { return microseconds(10); }
Duration never(int) { return BusyPoll::kLongest + microseconds(1); }

TEST(BusyPoll, AConversationIsWorthIt) {
  BusyPoll poll;
  EXPECT_GE(converse(poll, 1000, at_once).looks, 990);
}

TEST(BusyPoll, AFewMessagesAreNoConversation) {
  BusyPoll poll;
  for (int n = 0; n < 1000; ++n) ASSERT_FALSE(poll.worth_it(n % 7 != 0));
}

TEST(BusyPoll, AnythingElseInATurnEndsIt) {
  BusyPoll poll;
  ASSERT_GT(converse(poll, 100, at_once).looks, 0);
  ASSERT_TRUE(poll.worth_it(true));
  poll.spun(microseconds(1));
  EXPECT_FALSE(poll.worth_it(false));
  EXPECT_FALSE(poll.worth_it(true));
}

TEST(BusyPoll, AnswersThatTakeTheirTimeAreNotWaitedFor) {
  BusyPoll poll;
  const Talk talk = converse(poll, 1'000'000, never);
  EXPECT_GT(talk.looks, 3);  // it is tried again
  EXPECT_LT(talk.in_vain, milliseconds(4));
}

// Somebody else wants the processor: most answers are there at once, but now and then a yield
// lasts a time slice.
TEST(BusyPoll, TimeSlicesOfOthersAreAvoided) {
  BusyPoll poll;
  const Talk talk = converse(poll, 1'000'000, [](int n) {
    return n % 100 == 99 ? Duration(milliseconds(3)) : Duration(microseconds(10));
  });
  EXPECT_LT(talk.in_vain, milliseconds(100));
}

TEST(BusyPoll, AnAnswerThatIsLateOnceInAWhileDoesNotEndIt) {
  BusyPoll poll;
  converse(poll, 1000, at_once);
  const Talk talk =
      converse(poll, 100'000, [](int n) { return n % 50 == 0 ? never(n) : at_once(n); });
  EXPECT_GT(talk.looks, 99'000);
}

TEST(BusyPoll, WhatHasPaidOffAgainGoesOn) {
  BusyPoll poll;
  converse(poll, 1'000'000, never);
  converse(poll, 100'000, at_once);
  EXPECT_EQ(converse(poll, 1000, at_once).looks, 1000);
  // And doubts begin anew, from small ones.
  converse(poll, 1000, never);
  EXPECT_GT(converse(poll, 1000, at_once).looks, 700);
}

}  // namespace
}  // namespace virtproxy
