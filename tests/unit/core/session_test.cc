// The life of streams: opening, both directions, the close handshake, resets, numbers.
#include <gtest/gtest.h>

#include "tests/unit/core/pair.h"
#include "tests/unit/core/stream_life.h"

namespace virtproxy::test {
namespace {

class SessionTest : public testing::Test {
 protected:
  void SetUp() override { pair.connect(); }
  Pair pair;
};

TEST_F(SessionTest, OpenCarriesDataAtOnce) {
  const uint64_t id = *pair.a.open();
  EXPECT_EQ(pair.a.queue(id, 1000), 1000u);
  pair.a.end(id);
  pair.a.write(1 << 20, pair.now);
  pair.carry(pair.a, pair.b, SIZE_MAX);
  EXPECT_EQ(pair.b.at(id).received, 1000u);
  EXPECT_TRUE(pair.b.at(id).end_seen);
}

TEST_F(SessionTest, BytesGoBothWaysAndBothEndsCloseInOrder) {
  for (End* opener : {&pair.a, &pair.b}) {
    const uint64_t id = *opener->open();
    pair.settle();
    End& other = opener == &pair.a ? pair.b : pair.a;
    opener->queue(id, 10'000);
    other.queue(id, 12'000);
    pair.settle();
    opener->end(id);
    other.end(id);
    pair.settle();
    EXPECT_EQ(other.at(id).received, 10'000u);
    EXPECT_EQ(opener->at(id).received, 12'000u);
    EXPECT_EQ(opener->at(id).fate, Fate::kClosed);
    EXPECT_EQ(other.at(id).fate, Fate::kClosed);
    pair.expect_nothing_left();
  }
}

TEST_F(SessionTest, RequestEndsAndItsResponseStillArrives) {
  for (const bool opener_asks : {true, false}) {
    const uint64_t id = *pair.a.open();
    pair.settle();
    End& asks = opener_asks ? pair.a : pair.b;
    End& answers = opener_asks ? pair.b : pair.a;
    asks.queue(id, 100);
    asks.end(id);
    pair.settle();
    EXPECT_TRUE(answers.at(id).end_seen);
    EXPECT_EQ(asks.at(id).fate, Fate::kOpen);
    for (int i = 0; i < 20; ++i) {
      answers.queue(id, 16'000);
      pair.settle();
    }
    answers.end(id);
    pair.settle();
    EXPECT_EQ(asks.at(id).received, answers.at(id).queued);
    EXPECT_EQ(asks.at(id).fate, Fate::kClosed);
    EXPECT_EQ(answers.at(id).fate, Fate::kClosed);
  }
}

TEST_F(SessionTest, StreamIsNotClosedBeforeTheLastByteIsTaken) {
  pair.b.takes_at_once = false;
  const uint64_t id = *pair.a.open();
  pair.a.queue(id, 500);
  pair.a.end(id);
  pair.settle();
  pair.b.end(id);
  pair.settle();
  EXPECT_EQ(pair.a.at(id).fate, Fate::kOpen);
  EXPECT_EQ(pair.b.at(id).fate, Fate::kOpen);
  pair.b.take(id, 499);
  pair.settle();
  EXPECT_EQ(pair.a.at(id).fate, Fate::kOpen);
  pair.b.take(id, 1);
  pair.settle();
  EXPECT_EQ(pair.a.at(id).fate, Fate::kClosed);
  EXPECT_EQ(pair.b.at(id).fate, Fate::kClosed);
}

TEST_F(SessionTest, EmptyStreamClosesWithoutData) {
  const uint64_t id = *pair.a.open();
  pair.a.end(id);
  pair.settle();
  pair.b.end(id);
  pair.settle();
  EXPECT_EQ(pair.a.at(id).fate, Fate::kClosed);
  pair.expect_nothing_left();
}

TEST_F(SessionTest, EndWaitsForTheBytesQueuedBeforeIt) {
  const uint64_t id = *pair.a.open();
  pair.a.queue(id, 16'000);
  pair.a.end(id);
  pair.batch = 100;
  pair.settle();
  EXPECT_EQ(pair.b.at(id).received, 16'000u);
  EXPECT_TRUE(pair.b.at(id).end_seen);
}

TEST_F(SessionTest, StreamThatIsResetBeforeItsOpenWentOutIsNeverHeardOf) {
  const uint64_t id = *pair.a.open();
  pair.a.queue(id, 100);
  pair.a.end(id);
  pair.a.reset(id);
  EXPECT_EQ(pair.a.session.stats().streams, 0u);
  EXPECT_FALSE(pair.a.session.wants_to_write(pair.now));
  const uint64_t next = *pair.a.open();
  pair.settle();
  EXPECT_EQ(pair.b.conversations.size(), 1u);
  EXPECT_TRUE(pair.b.open_here(next));
}

TEST_F(SessionTest, RefusedOpenTellsTheReason) {
  for (const Fault why : {Fault::kRefused, Fault::kUnknownService, Fault::kTimedOut,
                          Fault::kUnreachable, Fault::kNoResources}) {
    pair.b.refuses_with = why;
    const uint64_t id = *pair.a.open();
    pair.a.queue(id, 5000);
    pair.settle();
    EXPECT_EQ(pair.a.at(id).fate, Fate::kResetByPeer);
    EXPECT_EQ(pair.a.at(id).fault, why);
    pair.expect_nothing_left();
  }
}

TEST_F(SessionTest, LimitOnStreamsHoldsForBothDirectionsTogether) {
  SessionConfig few = config_with(3);
  few.limits.max_streams = 4;
  Pair small(few, config_with(4));
  small.connect();
  std::vector<uint64_t> ids;
  for (int i = 0; i < 2; ++i) ids.push_back(*small.a.open());
  small.settle();
  for (int i = 0; i < 4; ++i) ids.push_back(*small.b.open());
  EXPECT_FALSE(small.b.open()) << "the peer announced 4";
  small.settle();
  EXPECT_EQ(small.b.count(Fate::kResetByPeer), 2u);
  EXPECT_EQ(small.b.at(ids[5]).fault, Fault::kTooManyStreams);
  EXPECT_FALSE(small.a.open());
  small.a.reset(ids[0]);
  small.settle();
  EXPECT_TRUE(small.a.open());
}

// A peer that ends or resets thousands of streams at once is answered in portions: each of them may
// be an event of the batch besides.
TEST_F(SessionTest, ABatchTellsOfSomeStreamsOnly) {
  constexpr uint32_t kStreams = 2000;
  SessionConfig config = config_with(1);
  SessionConfig other = config_with(2);
  config.limits = other.limits = derive_limits(64 << 20, kStreams, 65536, 65536);
  Pair many(config, other);
  many.connect();
  std::vector<uint64_t> ids;
  for (uint32_t i = 0; i < kStreams; ++i) ids.push_back(*many.a.open());
  many.settle();
  Events events;
  for (const uint64_t id : ids) many.a.session.reset(many.a.at(id).key, Fault::kAborted, events);
  size_t batches = 0;
  for (; many.a.session.wants_to_write(many.now); ++batches) {
    const Batch& batch = many.a.session.plan(1 << 20, many.now, events);
    ASSERT_LE(batch.size, 512 * kHeaderSize);
    ASSERT_FALSE(batch.empty());
  }
  EXPECT_GE(batches, kStreams / 512);
}

TEST_F(SessionTest, GoingAwayStopsNewStreamsAndLetsOldOnesFinish) {
  const uint64_t old = *pair.a.open();
  pair.settle();
  const uint64_t crossing = *pair.b.open();
  pair.a.session.go_away();
  pair.settle();
  EXPECT_TRUE(pair.b.peer_going_away);
  EXPECT_FALSE(pair.b.open());
  EXPECT_EQ(pair.b.at(crossing).fault, Fault::kGoingAway);
  pair.a.queue(old, 1000);
  pair.a.end(old);
  pair.b.end(old);
  pair.settle();
  EXPECT_EQ(pair.b.at(old).received, 1000u);
  EXPECT_EQ(pair.a.at(old).fate, Fate::kClosed);
  pair.expect_nothing_left();
}

TEST_F(SessionTest, GoingAwayIsSaidAgainInTheNextSession) {
  pair.a.session.go_away();
  pair.settle();
  pair.drop_link();
  pair.b.peer_going_away = false;
  pair.connect();
  EXPECT_TRUE(pair.b.peer_going_away);
}

TEST_F(SessionTest, NumberIsReusedOnlyWhenBothEndsAreDone) {
  pair.b.takes_at_once = false;
  SessionConfig one = config_with(5);
  one.limits.max_streams = 1;
  Pair single(one, one.number_seed == 5 ? config_with(6) : one);
  single.b.takes_at_once = false;
  single.connect();
  const uint64_t first = *single.a.open();
  single.a.queue(first, 10);
  single.a.end(first);
  single.settle();
  single.b.end(first);
  single.settle();
  EXPECT_FALSE(single.a.open());
  single.b.take(first, 10);
  single.settle();
  for (int i = 0; i < 10'000; ++i) {
    const auto id = single.a.open();
    ASSERT_TRUE(id) << i;
    single.a.reset(*id, Fault::kStalled);
    const auto again = single.a.open();
    ASSERT_TRUE(again);
    single.a.write(1 << 20, single.now);
    single.a.reset(*again);
    ASSERT_FALSE(single.a.open()) << "the peer has not answered yet";
    single.settle();
  }
  EXPECT_TRUE(single.b.downs.empty());
  single.expect_nothing_left();
}

void live_and_reset(size_t a_resets_at, size_t b_resets_at, uint64_t features) {
  Pair pair(config_with(1, features), config_with(2, features));
  pair.connect();
  pair.b.takes_at_once = false;
  for (int round = 0; round < 3; ++round) {
    const uint64_t id = *pair.a.open();
    for (size_t i = 0; i <= kSteps; ++i) {
      if (i == a_resets_at) pair.a.reset(id, Fault::kAborted);
      if (i == b_resets_at && pair.b.conversations.contains(id)) pair.b.reset(id, Fault::kStalled);
      if (i < kSteps) kLife[i](pair, id);
    }
    pair.settle();
    ASSERT_TRUE(pair.a.downs.empty() && pair.b.downs.empty())
        << a_resets_at << " " << b_resets_at << ": "
        << fault_text(pair.a.downs.empty() ? pair.b.downs[0] : pair.a.downs[0]);
    if (a_resets_at <= kSteps || b_resets_at <= kSteps) pair.expect_nothing_left();
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Reset, MayComeAtEveryStageFromEitherSideOrFromBothAtOnce) {
  for (const uint64_t features :
       {uint64_t{0}, feature::kCommitTrailer, feature::kChecksumTrailer}) {
    for (size_t a = 0; a <= kSteps + 1; ++a) {
      for (size_t b = 0; b <= kSteps + 1; ++b) {
        live_and_reset(a, b, features);
        ASSERT_FALSE(testing::Test::HasFailure()) << a << " " << b << " " << features;
      }
    }
  }
}

TEST_F(SessionTest, LateResetOfAStreamThatIsOverMeetsTheNextOneOfItsNumber) {
  SessionConfig one = config_with(5);
  one.limits.max_streams = 1;
  Pair single(one, config_with(6));
  single.connect();
  const uint64_t first = *single.a.open();
  single.settle();
  single.b.end(first);
  single.settle();
  single.a.end(first);
  single.a.write(1 << 20, single.now);  // END …
  single.carry(single.a, single.b, SIZE_MAX);
  single.b.write(1 << 20, single.now);  // … DONE …
  single.carry(single.b, single.a, SIZE_MAX);
  ASSERT_EQ(single.b.at(first).fate, Fate::kClosed);
  ASSERT_EQ(single.a.at(first).fate, Fate::kClosed);
  // Now the other order: b resets while a's last frame is still on its way.
  const uint64_t second = *single.a.open();
  single.settle();
  single.a.end(second);
  single.settle();
  single.b.end(second);
  single.b.write(1 << 20, single.now);
  single.carry(single.b, single.a, SIZE_MAX);
  single.a.write(1 << 20, single.now);  // the DONE that makes a forget the stream
  ASSERT_EQ(single.a.at(second).fate, Fate::kClosed);
  single.b.reset(second);
  single.b.write(1 << 20, single.now);
  const uint64_t third = *single.a.open();
  single.a.write(1 << 20, single.now);
  single.settle();
  EXPECT_TRUE(single.a.downs.empty()) << fault_text(single.a.downs[0]);
  EXPECT_TRUE(single.b.open_here(third));
  EXPECT_EQ(single.b.session.stats().streams, 1u);
}

TEST_F(SessionTest, CallsForAStreamThatThePeerJustEndedDoNothing) {
  const uint64_t id = *pair.a.open();
  pair.settle();
  const StreamKey key = pair.b.at(id).key;
  pair.a.queue(id, 100);
  pair.a.write(1 << 20, pair.now);
  pair.a.reset(id);
  pair.a.write(1 << 20, pair.now);
  Events events;  // not read yet by b's driver
  pair.b.session.input(pair.a.out, pair.now, events);
  EXPECT_EQ(events.back().kind, Event::Kind::kReset);
  const size_t before = events.size();
  pair.b.session.consumed(key, 100);
  pair.b.session.delivered(key, events);
  pair.b.session.end(key);
  pair.b.session.queue(key, 10);
  pair.b.session.reset(key, Fault::kAborted, events);
  EXPECT_EQ(pair.b.session.request_credit(key), 0u);
  EXPECT_EQ(events.size(), before);
}

TEST_F(SessionTest, LongestServiceAndMetadataArrive) {
  const std::string service(protocol_limits::kMaxService, 's');
  const Bytes metadata(protocol_limits::kMaxMetadata, std::byte{7});
  ASSERT_TRUE(pair.a.session.open(service, Priority::kBulk, metadata));
  pair.a.write(1 << 20, pair.now);
  Events events;
  pair.b.session.input(pair.a.out, pair.now, events);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].service, service);
  EXPECT_EQ(events[0].priority, Priority::kBulk);
  EXPECT_TRUE(
      std::equal(events[0].bytes.begin(), events[0].bytes.end(), metadata.begin(), metadata.end()));
}

TEST(Session, BatchStaysNearItsLimitWhateverGoesBesideThePayload) {
  SessionConfig config = config_with(1);
  config.limits = derive_limits(64u << 20, 1000, 65536, 65536);
  SessionConfig other = config;
  other.epoch_key = {2, 0};
  Pair pair(config, other);
  pair.connect();
  std::vector<uint64_t> ids;
  for (int i = 0; i < 500; ++i) ids.push_back(*pair.a.open());
  pair.settle();
  for (const uint64_t id : ids) {
    pair.a.queue(id, 1);
    pair.a.end(id);
  }
  constexpr uint64_t kLimit = 4096;
  while (pair.a.session.wants_to_write(pair.now)) {
    const size_t before = pair.a.out.size();
    ASSERT_TRUE(pair.a.write(kLimit, pair.now));
    EXPECT_LE(pair.a.out.size() - before, kLimit + 4 * kHeaderSize);
  }
  pair.settle();
  for (const uint64_t id : ids) EXPECT_EQ(pair.b.at(id).received, 1u);
}

TEST(Session, DataMovesHoweverMuchControlIsPending) {
  Pair pair;
  pair.connect();
  const uint64_t bulk = *pair.a.open();
  pair.settle();
  constexpr uint64_t kLimit = 2048;
  for (int round = 0; round < 20; ++round) {
    pair.a.queue(bulk, 800);
    // More openings than one batch holds, each with data of its own behind it.
    for (int i = 0; i < 60; ++i) {
      if (const auto id = pair.a.open()) pair.a.queue(*id, 10);
    }
    const uint64_t queued = pair.a.session.stats().queued;
    ASSERT_TRUE(pair.a.write(kLimit, pair.now));
    EXPECT_LT(pair.a.session.stats().queued, queued);
  }
  pair.settle();
  EXPECT_EQ(pair.b.at(bulk).received, 16'000u);
}

}  // namespace
}  // namespace virtproxy::test
