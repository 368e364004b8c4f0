// Version 1 without credit: what slow readers may hold, how long they may stop the channel, and who
// pays for it.
#include <gtest/gtest.h>

#include "tests/unit/core/v1_pair.h"

namespace virtproxy::test {
namespace {

constexpr uint64_t kHold = 100'000;
constexpr Duration kStall = milliseconds(500);

SessionConfig holding(uint64_t secret, uint64_t budget = 64u << 20) {
  SessionConfig config = config_with(secret);
  config.v1.hold = kHold;
  config.v1.stall_timeout = kStall;
  config.limits.receive_budget = budget;
  config.limits.max_streams = 64;
  config.limits.initial_window = 1024;
  return config;
}

class HoldTest : public testing::Test {
 protected:
  void SetUp() override {
    pair.most_read = 16 * 1024;
    pair.b.takes_at_once = false;
    pair.connect();
    for (uint64_t id = 1; id <= 3; ++id) pair.a.open(id);
    pair.settle();
  }
  // Sends until the reader of `id` is what stops it.
  void flood(uint64_t id) {
    for (int i = 0; i < 10; ++i) {
      pair.a.queue(id, 20'000);
      pair.settle();
    }
  }
  bool reading() { return pair.b.selector->wants_input(pair.now); }

  ChoosingPair pair{ProtocolMode::kV1, ProtocolMode::kV1, holding(1), holding(2)};
};

TEST_F(HoldTest, StreamMayHoldItsShareAndNothingWaits) {
  pair.a.queue(1, kHold);
  pair.settle();
  EXPECT_EQ(pair.b.at(1).received, kHold);
  EXPECT_TRUE(reading());
  pair.run_for(seconds(60));
  EXPECT_TRUE(pair.b.is_open(1));
}

TEST_F(HoldTest, StalledStreamStopsTheChannelAndThenItAloneIsClosed) {
  flood(1);
  EXPECT_FALSE(reading());
  EXPECT_LE(pair.b.at(1).received, kHold + pair.most_read);
  pair.a.queue(2, 1000);
  pair.run_for(kStall - milliseconds(1));
  EXPECT_EQ(pair.b.at(2).received, 0u);
  EXPECT_TRUE(pair.b.is_open(1));
  pair.run_for(kStall / 4);
  EXPECT_EQ(pair.b.at(1).fate, Fate::kResetByPeer);
  EXPECT_EQ(pair.b.at(1).fault, Fault::kStalled);
  EXPECT_EQ(pair.b.at(2).received, 1000u);
  EXPECT_TRUE(pair.b.is_open(2) && pair.b.is_open(3));
  EXPECT_EQ(pair.a.at(1).fate, Fate::kClosed) << "its client is told";
}

TEST_F(HoldTest, WritingGoesOnWhileReadingWaits) {
  flood(1);
  ASSERT_FALSE(reading());
  pair.b.queue(2, 50'000);
  pair.settle();
  EXPECT_EQ(pair.a.at(2).received, 50'000u);
}

TEST_F(HoldTest, ReaderThatTakesAnythingIsSlowAndNotStalled) {
  pair.a.queue(2, 1000);
  for (int i = 0; i < 100; ++i) {
    flood(1);
    ASSERT_FALSE(reading());
    pair.run_for(kStall - milliseconds(1));
    pair.b.take(1, 1);
  }
  EXPECT_TRUE(pair.b.is_open(1));
  pair.run_for(kStall + kStall / 4);
  EXPECT_EQ(pair.b.at(1).fault, Fault::kStalled) << "until it stops";
  EXPECT_TRUE(pair.b.is_open(2));
}

TEST_F(HoldTest, ChannelMovesAtThePaceOfASlowReader) {
  flood(1);
  ASSERT_FALSE(reading());
  pair.a.queue(2, 1000);
  pair.run_for(kStall / 2);
  EXPECT_EQ(pair.b.at(2).received, 0u);
  pair.b.take(1, pair.most_read);
  while (!reading()) pair.b.take(1, 1000);
  pair.settle();
  while (pair.b.at(2).received < 1000) {
    ASSERT_TRUE(pair.b.is_open(1));
    pair.b.take(1, 1000);
    pair.settle();
  }
}

TEST_F(HoldTest, StreamThatIsAloneMayStandStill) {
  for (const uint64_t id : {2, 3}) pair.a.reset(id);
  pair.settle();
  flood(1);
  ASSERT_FALSE(reading());
  pair.run_for(100 * kStall);
  EXPECT_TRUE(pair.b.is_open(1));
}

// Its INIT lies in the channel behind the data of the stream that is alone.
TEST_F(HoldTest, NewClientOfThePeerFindsOutThatTheStreamIsNotAlone) {
  for (const uint64_t id : {2, 3}) pair.a.reset(id);
  pair.settle();
  flood(1);
  ASSERT_TRUE(pair.a.open(4));
  pair.run_for(10 * kStall);
  EXPECT_EQ(pair.b.at(1).fault, Fault::kStalled);
  EXPECT_TRUE(pair.b.is_open(4));
  pair.a.queue(4, 1000);
  pair.settle();
  EXPECT_EQ(pair.b.at(4).received, 1000u);
}

TEST_F(HoldTest, ClientOfOursSharesTheChannelWithAStreamThatStandsStill) {
  for (const uint64_t id : {2, 3}) pair.a.reset(id);
  pair.settle();
  flood(1);
  pair.run_for(10 * kStall);
  ASSERT_TRUE(pair.b.is_open(1));
  ASSERT_TRUE(pair.b.open(4));
  pair.run_for(kStall - milliseconds(1));
  EXPECT_TRUE(pair.b.is_open(1)) << "nobody has waited for so long";
  pair.run_for(kStall);
  EXPECT_EQ(pair.b.at(1).fault, Fault::kStalled);
  EXPECT_TRUE(pair.b.is_open(4)) << "its ACK was on its way for all that time";
}

TEST_F(HoldTest, StreamThatIsAloneFillsNoMoreThanTheMemory) {
  constexpr uint64_t kBudget = 1'000'000;
  ChoosingPair small(ProtocolMode::kV1, ProtocolMode::kV1, holding(1), holding(2, kBudget));
  small.most_read = 16 * 1024;
  small.b.takes_at_once = false;
  small.connect();
  small.a.open(1);
  small.settle();
  for (int i = 0; i < 200; ++i) {
    small.a.queue(1, 200'000);
    small.run_for(kStall);
    ASSERT_LE(small.b.selector->stats().held, kBudget + small.most_read);
  }
  EXPECT_EQ(small.b.at(1).fault, Fault::kStalled);
}

TEST_F(HoldTest, ReaderThatLeavesLetsTheChannelGoOn) {
  flood(1);
  ASSERT_FALSE(reading());
  pair.b.reset(1);
  EXPECT_TRUE(reading());
  EXPECT_EQ(pair.b.selector->stats().held, 0u);
}

TEST_F(HoldTest, ApplicationThatTakesNothingAnyMoreLetsTheChannelGoOn) {
  flood(1);
  ASSERT_FALSE(reading());
  pair.b.selector->session().discard_input(pair.b.at(1).key);
  EXPECT_TRUE(reading());
  pair.a.queue(2, 1000);
  pair.settle();
  EXPECT_EQ(pair.b.at(2).received, 1000u);
}

TEST(HoldBudget, AllStreamsTogetherStayWithinTheMemoryAndWhoHoldsMostPays) {
  constexpr uint64_t kBudget = 300'000;
  ChoosingPair pair(ProtocolMode::kV1, ProtocolMode::kV1, holding(1), holding(2, kBudget));
  pair.most_read = 16 * 1024;
  pair.b.takes_at_once = false;
  pair.connect();
  constexpr uint64_t kStalled = 10;
  constexpr uint64_t kAll = 40;
  for (uint64_t id = 1; id <= kAll; ++id) pair.a.open(id);
  pair.settle();
  for (int i = 0; i < 100; ++i) {
    for (uint64_t id = 1; id <= kStalled; ++id) pair.a.queue(id, 20'000);
    pair.run_for(milliseconds(40));
    for (uint64_t id = kStalled + 1; id <= kAll; ++id) {
      pair.a.queue(id, 500);
      pair.run_for(milliseconds(1));
      pair.b.take(id, UINT64_MAX);
    }
    ASSERT_LE(pair.b.selector->stats().held, kBudget + pair.most_read);
  }
  size_t closed = 0;
  for (uint64_t id = 1; id <= kAll; ++id) {
    EXPECT_TRUE(id <= kStalled || pair.b.is_open(id)) << id;
    closed += !pair.b.is_open(id);
  }
  EXPECT_GE(closed, 5u);
}

}  // namespace
}  // namespace virtproxy::test
