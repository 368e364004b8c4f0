// Version 1: the life of streams between two ends that mean well.
#include <gtest/gtest.h>

#include "tests/unit/core/v1_pair.h"

namespace virtproxy::test {
namespace {

class V1PairTest : public testing::Test {
 protected:
  void SetUp() override { pair.connect(); }
  void expect_nothing_left() {
    for (ChoosingEnd* end : {&pair.a, &pair.b}) {
      const Session::Stats stats = end->selector->stats();
      EXPECT_EQ(stats.streams, 0u);
      EXPECT_EQ(stats.held, 0u);
      EXPECT_EQ(stats.queued, 0u);
    }
  }
  ChoosingPair pair;
};

TEST_F(V1PairTest, IsUpAtOnceAndSaysNothing) {
  EXPECT_EQ(pair.a.ups, std::vector<unsigned>{1});
  EXPECT_FALSE(pair.a.selector->wants_to_write(pair.now));
  EXPECT_FALSE(pair.a.selector->deadline());
}

TEST_F(V1PairTest, NothingMayBeSentBeforeTheAck) {
  pair.b.accepts_at_once = false;
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  EXPECT_EQ(pair.a.credit(id), 0u);
  EXPECT_EQ(pair.b.credit(id), 0u);
  pair.b.accept(id);
  EXPECT_GT(pair.b.credit(id), 0u) << "its ACK goes before its data";
  pair.settle();
  EXPECT_EQ(pair.a.credits, 1u);
  EXPECT_GT(pair.a.credit(id), 0u);
}

TEST_F(V1PairTest, BytesGoBothWaysWhoeverOpened) {
  uint64_t id = 1;
  for (ChoosingEnd* opener : {&pair.a, &pair.b}) {
    ChoosingEnd& other = opener == &pair.a ? pair.b : pair.a;
    opener->open(++id);
    pair.settle();
    EXPECT_EQ(opener->queue(id, 10'000), 10'000u);
    EXPECT_EQ(other.queue(id, 70'001), 70'001u);
    pair.settle();
    EXPECT_EQ(other.at(id).received, 10'000u);
    EXPECT_EQ(opener->at(id).received, 70'001u);
    opener->reset(id);
    pair.settle();
    EXPECT_EQ(other.at(id).fate, Fate::kClosed);
    expect_nothing_left();
  }
}

TEST_F(V1PairTest, PacketsAreWholeHoweverSmallTheBatch) {
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.a.queue(id, 5000);
  while (pair.a.write(1, pair.now)) ASSERT_EQ(pair.a.out.size() % kV1PacketSize, 0u);
  EXPECT_EQ(pair.a.out.size(), 5 * kV1PacketSize);
}

TEST_F(V1PairTest, RefusalReachesTheClient) {
  pair.b.refuses_with = Fault::kUnknownService;
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  EXPECT_EQ(pair.a.at(id).fate, Fate::kResetByPeer);
  EXPECT_EQ(pair.a.at(id).fault, Fault::kRefused);
  expect_nothing_left();
}

TEST_F(V1PairTest, ServiceThatAnswersAndEndsIsClosedAtOnceWithAllItSaid) {
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.a.queue(id, 100);
  pair.settle();
  pair.b.queue(id, 30'000);
  pair.b.end(id);
  pair.settle();
  EXPECT_EQ(pair.a.at(id).received, 30'000u);
  EXPECT_EQ(pair.a.at(id).fate, Fate::kClosed);
  EXPECT_EQ(pair.b.at(id).fate, Fate::kClosed);
  expect_nothing_left();
}

TEST_F(V1PairTest, ClientThatAskedAndEndedGetsItsAnswer) {
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.a.queue(id, 100);
  pair.a.end(id);
  pair.run_for(V1Session::kAnswerTime - milliseconds(1));
  ASSERT_TRUE(pair.b.is_open(id));
  for (int i = 0; i < 5; ++i) {  // slowly
    pair.b.queue(id, 1000);
    pair.run_for(V1Session::kAnswerTime - milliseconds(1));
  }
  EXPECT_EQ(pair.a.at(id).received, 5000u);
  ASSERT_TRUE(pair.a.is_open(id));
  pair.run_for(milliseconds(2));
  EXPECT_EQ(pair.a.at(id).fate, Fate::kClosed);
  EXPECT_TRUE(pair.b.at(id).end_seen) << "what waits for the end of an upload sees it";
  expect_nothing_left();
}

TEST_F(V1PairTest, ClientThatHasItsAnswerAndEndsIsGoneSoon) {
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.a.queue(id, 100);
  pair.settle();
  pair.b.queue(id, 100);
  pair.settle();
  pair.a.end(id);
  pair.run_for(V1Session::kQuietTime - milliseconds(1));
  EXPECT_TRUE(pair.a.is_open(id));
  pair.run_for(milliseconds(1));
  EXPECT_EQ(pair.b.at(id).fate, Fate::kClosed);
  expect_nothing_left();
}

TEST_F(V1PairTest, CloseDeliversWhatWasReceivedBefore) {
  pair.a.takes_at_once = false;
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.b.queue(id, 5000);
  pair.b.end(id);
  pair.settle();
  EXPECT_TRUE(pair.a.at(id).end_seen);
  EXPECT_EQ(pair.b.at(id).fate, Fate::kClosed);
  EXPECT_TRUE(pair.a.is_open(id));
  EXPECT_EQ(pair.a.credit(id), 0u) << "nobody would hear it";
  pair.a.take(id, 5000);
  EXPECT_EQ(pair.a.at(id).fate, Fate::kClosed);
  expect_nothing_left();
}

TEST_F(V1PairTest, CloseFollowsTheDataOfAnApplicationThatBrokeOff) {
  for (const bool opener : {true, false}) {
    const uint64_t id = *pair.a.open(opener ? 1 : 2);
    pair.settle();
    ChoosingEnd& breaks = opener ? pair.a : pair.b;
    ChoosingEnd& other = opener ? pair.b : pair.a;
    EXPECT_EQ(breaks.queue(id, 70'001), 70'001u);
    other.queue(id, 5000);
    breaks.break_off(id);
    EXPECT_TRUE(breaks.is_open(id)) << "the driver still has what is queued";
    EXPECT_EQ(breaks.credit(id), 0u);
    pair.settle();
    EXPECT_EQ(breaks.at(id).fate, Fate::kResetByPeer);
    EXPECT_EQ(breaks.at(id).received, 0u) << "nobody takes it";
    EXPECT_EQ(other.at(id).received, 70'001u);
    EXPECT_EQ(other.at(id).fate, Fate::kClosed);
    expect_nothing_left();
  }
}

TEST_F(V1PairTest, CloseIsWrittenAtOnceWhereNothingIsQueued) {
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.a.break_off(id);
  EXPECT_EQ(pair.a.at(id).fate, Fate::kResetHere);
  pair.settle();
  EXPECT_EQ(pair.b.at(id).fate, Fate::kClosed);
  expect_nothing_left();
}

TEST_F(V1PairTest, PeerThatClosesFirstEndsTheWaitForWhatIsQueued) {
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.a.queue(id, 70'001);
  pair.a.break_off(id);
  pair.b.reset(id);
  pair.b.write(1 << 20, pair.now);
  pair.carry(pair.b, pair.a, SIZE_MAX);
  EXPECT_FALSE(pair.a.is_open(id));
  pair.settle();
  expect_nothing_left();
}

TEST_F(V1PairTest, BothCloseAtOnce) {
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.a.reset(id);
  pair.b.reset(id);
  pair.settle();
  expect_nothing_left();
}

TEST_F(V1PairTest, ClientThatLeavesBeforeTheAckIsClosedByIt) {
  pair.b.accepts_at_once = false;
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.a.reset(id);
  pair.settle();
  ASSERT_TRUE(pair.b.is_open(id)) << "no number to close by is known yet";
  pair.b.accept(id);
  pair.settle();
  EXPECT_EQ(pair.b.at(id).fate, Fate::kClosed);
  EXPECT_TRUE(pair.a.saw(Glitch::kUnknownAck));
  expect_nothing_left();
}

TEST_F(V1PairTest, AckThatNeverComesRefusesTheClient) {
  pair.b.accepts_at_once = false;
  const uint64_t id = *pair.a.open(1);
  pair.run_for(seconds(15) - milliseconds(1));
  EXPECT_TRUE(pair.a.is_open(id));
  pair.run_for(milliseconds(1));
  EXPECT_EQ(pair.a.at(id).fate, Fate::kResetByPeer);
  EXPECT_EQ(pair.a.at(id).fault, Fault::kTimedOut);
  pair.b.accept(id);
  pair.settle();
  EXPECT_EQ(pair.b.at(id).fate, Fate::kClosed);
  expect_nothing_left();
}

// --- thousands at once ---------------------------------------------------------------------------

constexpr size_t kCrowd = 1000;

// Ticks until nothing is left to do; returns how many that took. No call ends more streams than
// others may wait for.
size_t ticks_until_over(ChoosingEnd& end, Instant now) {
  size_t ticks = 0;
  for (; end.selector->behind(now); ++ticks) {
    const size_t open = end.count(Fate::kOpen);
    end.tick(now);
    const size_t ended = open - end.count(Fate::kOpen);
    EXPECT_GT(ended, 0u);
    EXPECT_LE(ended, V1Session::kMostEndsAtOnce);
    if (ended == 0) break;
  }
  return ticks;
}

TEST_F(V1PairTest, ThousandAcksThatNeverComeRefuseTheirClientsInSlices) {
  pair.b.accepts_at_once = false;
  for (uint64_t id = 1; id <= kCrowd; ++id) ASSERT_TRUE(pair.a.open(id));
  pair.settle();
  pair.now += seconds(15) + milliseconds(1);
  ASSERT_TRUE(pair.a.selector->behind(pair.now));
  EXPECT_GE(ticks_until_over(pair.a, pair.now), kCrowd / V1Session::kMostEndsAtOnce);
  EXPECT_EQ(pair.a.count(Fate::kResetByPeer), kCrowd);
  EXPECT_EQ(pair.a.selector->stats().streams, 0u);
}

TEST_F(V1PairTest, ALostBoundaryBreaksAllStreamsAtOnceAndAbortsThemInSlices) {
  for (uint64_t id = 1; id <= kCrowd; ++id) ASSERT_TRUE(pair.a.open(id));
  pair.settle();
  ASSERT_EQ(pair.b.count(Fate::kOpen), kCrowd);
  ASSERT_EQ(pair.a.queue(1, 100), 100u);
  Bytes lost(100, std::byte{7});
  lost.resize(lost.size() + kV1PacketSize);
  encode_v1_control(V1Message::kClose, -1, 7, lost.data() + 100);
  pair.a.read(lost, pair.now);
  EXPECT_EQ(pair.a.count(Fate::kOpen), kCrowd - V1Session::kMostEndsAtOnce);
  // Those that are left carry nothing any more, either way.
  for (uint64_t id = 1; id <= kCrowd; ++id) {
    if (!pair.a.is_open(id)) continue;
    ASSERT_EQ(pair.a.credit(id), 0u);
  }
  const uint64_t last = kCrowd;
  ASSERT_TRUE(pair.a.is_open(last));
  ASSERT_EQ(pair.b.queue(last, 100), 100u);
  pair.b.write(1 << 20, pair.now);
  pair.carry(pair.b, pair.a);
  EXPECT_EQ(pair.a.at(last).received, 0u);
  pair.a.end(last);
  EXPECT_GE(ticks_until_over(pair.a, pair.now), kCrowd / V1Session::kMostEndsAtOnce - 1);
  pair.settle();
  EXPECT_EQ(pair.a.count(Fate::kResetByPeer), kCrowd);
  EXPECT_EQ(pair.b.count(Fate::kOpen), 0u);
  expect_nothing_left();
}

TEST_F(V1PairTest, GoingAwayRefusesNewStreamsAndKeepsOldOnes) {
  const uint64_t old = *pair.a.open(1);
  pair.settle();
  pair.b.selector->go_away();
  const uint64_t late = *pair.a.open(2);
  pair.a.queue(old, 100);
  pair.settle();
  EXPECT_EQ(pair.b.at(old).received, 100u);
  EXPECT_EQ(pair.a.at(late).fate, Fate::kResetByPeer);
}

TEST_F(V1PairTest, LostLinkEndsEverythingAndTheNextSessionIsClean) {
  for (uint64_t id = 1; id <= 20; ++id) pair.a.open(id);
  pair.settle();
  for (uint64_t id = 1; id <= 20; ++id) pair.a.queue(id, 5000);
  pair.a.write(3000, pair.now);
  pair.drop_link();
  EXPECT_EQ(pair.a.count(Fate::kLost), 20u);
  expect_nothing_left();
  pair.a.out.clear();
  pair.connect();
  const uint64_t id = *pair.a.open(100);
  pair.settle();
  pair.a.queue(id, 5000);
  pair.settle();
  EXPECT_EQ(pair.b.at(id).received, 5000u);
}

TEST_F(V1PairTest, StreamsShareTheChannelAndClassesAreKept) {
  for (uint64_t id = 1; id <= 3; ++id) {
    pair.a.open(id, id == 3 ? Priority::kInteractive : Priority::kBulk);
  }
  pair.settle();
  for (uint64_t id = 1; id <= 3; ++id) pair.a.queue(id, 200'000);
  pair.a.write(64 * 1024, pair.now);
  pair.carry(pair.a, pair.b);
  EXPECT_GT(pair.b.at(3).received, 40'000u);
  EXPECT_GT(pair.b.at(1).received + pair.b.at(2).received, 10'000u);
}

TEST(V1Numbers, AreLargeUniqueAndNotUsedAgain) {
  for (const uint64_t secret : {0ull, 1ull, 0xffffffffffffffffull, 0x123456789abcdefull}) {
    ChoosingEnd end(config_with(secret), ProtocolMode::kV1);
    end.transport_up(seconds(1));
    std::set<int32_t> seen;
    for (uint64_t id = 0; id < 3000; ++id) {
      end.open(id);
      end.write(1 << 20, seconds(1));
      ASSERT_EQ(end.out.size(), kV1PacketSize);
      const int32_t number = decode_v1_head(end.out.data()).control_client();
      EXPECT_GE(number, 1'000'000);
      ASSERT_TRUE(seen.insert(number).second);
      end.out.clear();
      if (id % 3 != 0) end.reset(id);
    }
  }
}

TEST(V1Numbers, StartSomewhereElseInEveryLife) {
  std::set<int32_t> first;
  for (uint64_t secret = 1; secret <= 50; ++secret) {
    ChoosingEnd end(config_with(secret * 0x1234567), ProtocolMode::kV1);
    end.transport_up(seconds(1));
    end.open(1);
    end.write(1 << 20, seconds(1));
    first.insert(decode_v1_head(end.out.data()).control_client());
  }
  EXPECT_EQ(first.size(), 50u);
}

}  // namespace
}  // namespace virtproxy::test
