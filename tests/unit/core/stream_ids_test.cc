#include "core/v2/stream_ids.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace virtproxy {
namespace {

using Standing = StreamIds::Standing;

TEST(StreamIds, AreGivenOutUpToTheLimitAndNeverTwiceAtOnce) {
  StreamIds numbers;
  std::set<uint32_t> seen;
  for (int i = 0; i < 10; ++i) {
    const auto number = numbers.take(10);
    ASSERT_TRUE(number);
    EXPECT_LT(slot_of(*number), 10u);
    EXPECT_TRUE(seen.insert(*number).second);
  }
  EXPECT_FALSE(numbers.take(10));
}

TEST(StreamIds, OtherEndFollowsThroughEveryGeneration) {
  StreamIds ours;
  StreamIds theirs;
  for (uint32_t i = 0; i < 3 * kGenerations; ++i) {
    const auto number = ours.take(1);
    ASSERT_TRUE(number);
    ASSERT_EQ(theirs.admit(*number, 1), Fault::kNone) << i;
    ours.bind(*number, i);
    theirs.bind(*number, i);
    ASSERT_EQ(ours.find(*number).local, i);
    ASSERT_EQ(theirs.find(*number).standing, Standing::kOpen);
    ours.release(*number, true);
    theirs.release(*number, false);
    ASSERT_EQ(ours.find(*number).standing, Standing::kOver);
    ASSERT_EQ(theirs.find(*number).standing, Standing::kOver);
  }
}

TEST(StreamIds, StreamBeforeTheLastOneOfItsSlotIsOverAndOlderOnesNeverWere) {
  StreamIds numbers;
  uint32_t number[3];
  for (uint32_t& n : number) {
    n = *numbers.take(1);
    numbers.bind(n, 0);
    if (&n != &number[2]) numbers.release(n, true);
  }
  EXPECT_EQ(numbers.find(number[0]).standing, Standing::kNever);
  EXPECT_EQ(numbers.find(number[1]).standing, Standing::kOver);
  EXPECT_EQ(numbers.find(number[2]).standing, Standing::kOpen);
  EXPECT_EQ(numbers.find(stream_number(0, 4)).standing, Standing::kNever);
  EXPECT_EQ(numbers.find(stream_number(1, 1)).standing, Standing::kNever);
}

TEST(StreamIds, NumberThatThePeerNeverHeardOfIsGivenOutAgain) {
  StreamIds numbers;
  const uint32_t first = *numbers.take(4);
  numbers.put_back(first);
  EXPECT_EQ(numbers.find(first).standing, Standing::kNever);
  EXPECT_EQ(*numbers.take(4), first);
}

TEST(StreamIds, WrongGenerationOrSlotOrReuseIsRefused) {
  StreamIds theirs;
  EXPECT_EQ(theirs.admit(stream_number(4, 1), 4), Fault::kBadStreamId);
  EXPECT_EQ(theirs.admit(stream_number(0, 0), 4), Fault::kBadStreamId);
  EXPECT_EQ(theirs.admit(stream_number(0, 2), 4), Fault::kBadStreamId);
  EXPECT_EQ(theirs.admit(stream_number(3, 1), 4), Fault::kNone);
  EXPECT_EQ(theirs.admit(stream_number(3, 1), 4), Fault::kStreamInUse);
  EXPECT_EQ(theirs.admit(stream_number(3, 2), 4), Fault::kStreamInUse);
  theirs.release(stream_number(3, 1), false);
  EXPECT_EQ(theirs.admit(stream_number(3, 1), 4), Fault::kBadStreamId);
  EXPECT_EQ(theirs.admit(stream_number(3, 2), 4), Fault::kNone);
}

TEST(StreamIds, BothEndsAgreeThroughRandomUse) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    StreamIds ours;
    StreamIds theirs;
    std::vector<uint32_t> open;
    for (int i = 0; i < 5000; ++i) {
      if (random() % 2 != 0) {
        const auto number = ours.take(16);
        ASSERT_EQ(number.has_value(), open.size() < 16);
        if (!number) continue;
        ours.bind(*number, 1);
        if (random() % 5 == 0) {
          ours.put_back(*number);
          continue;
        }
        ASSERT_EQ(theirs.admit(*number, 16), Fault::kNone);
        theirs.bind(*number, 1);
        open.push_back(*number);
      } else if (!open.empty()) {
        const size_t which = random() % open.size();
        ours.release(open[which], true);
        theirs.release(open[which], false);
        open.erase(open.begin() + static_cast<ptrdiff_t>(which));
      }
    }
  }
}

}  // namespace
}  // namespace virtproxy
