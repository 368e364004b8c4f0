// Flow control: the budget, the windows, and what becomes of credit when streams end.
#include <gtest/gtest.h>

#include "core/flow/credit_pool.h"
#include "tests/unit/core/pair.h"
#include "tests/unit/core/puppet.h"

namespace virtproxy::test {
namespace {

SessionConfig tight(uint64_t secret, uint64_t capacity = 256 * 1024) {
  SessionConfig config = config_with(secret);
  config.limits = {.max_streams = 16,
                   .initial_window = 4096,
                   .max_window = 128 * 1024,
                   .receive_budget = 16 * 4096 + capacity,
                   .max_frame = 16384};
  return config;
}

TEST(CreditPool, LendsNoMoreThanItsFund) {
  CreditPool pool(1000);
  pool.change_borrowed(0, 600);
  EXPECT_EQ(pool.borrowed(), 600u);
  EXPECT_EQ(pool.share(0), 200u) << "a newcomer";
  EXPECT_EQ(pool.share(600), 500u) << "the stream that has it all";
  pool.change_borrowed(0, 400);
  EXPECT_EQ(pool.borrowed(), 1000u);
  EXPECT_DEATH(pool.change_borrowed(0, 1), "borrowed_ <= capacity_");
  pool.change_borrowed(1000, 0);
  EXPECT_EQ(pool.share(0), 500u);
}

TEST(Limits, PromiseToEveryStreamFitsIntoHalfOfTheMemory) {
  for (const uint64_t memory : {1ull << 16, 1ull << 20, 1ull << 26, 1ull << 32}) {
    for (const uint32_t streams : {1u, 7u, 1024u, 100'000u}) {
      const SessionLimits limits = derive_limits(memory, streams, 1 << 20, 65536);
      EXPECT_LE(uint64_t{limits.initial_window} * streams, memory / 2);
      EXPECT_EQ(limits.initial_window > 0,
                memory / 2 / streams >= protocol_limits::kMinInitialWindow);
      EXPECT_LE(streams, most_streams(least_receive_memory(streams)));
      EXPECT_GT(streams, most_streams(least_receive_memory(streams) - 1));
    }
  }
}

TEST(Credit, WindowOfAFastReaderGrowsToItsMaximum) {
  Pair pair(tight(1, 16 << 20), tight(2, 16 << 20));
  pair.connect();
  const uint64_t id = *pair.a.open();
  uint64_t most = 0;
  for (int i = 0; i < 200; ++i) {
    most = std::max(most, pair.a.queue(id, UINT64_MAX));
    pair.settle();
  }
  EXPECT_GE(most, 64u * 1024);
  EXPECT_LE(most, 128u * 1024);
}

TEST(Credit, WindowOfAReaderWhoTakesNothingStaysWhatWasPromised) {
  Pair pair(tight(1), tight(2));
  pair.connect();
  pair.b.takes_at_once = false;
  const uint64_t id = *pair.a.open();
  uint64_t sent = 0;
  for (int i = 0; i < 20; ++i) {
    sent += pair.a.queue(id, UINT64_MAX);
    pair.settle();
  }
  EXPECT_EQ(sent, 4096u);
  EXPECT_EQ(pair.b.session.stats().borrowed, 0u);
  EXPECT_EQ(pair.b.session.stats().held, 4096u);
  pair.b.take(id, 4096);
  pair.settle();
  EXPECT_TRUE(pair.a.at(id).has_credit_again);
  EXPECT_GT(pair.a.queue(id, 1), 0u);
}

TEST(Credit, WindowsShrinkWhenMemoryIsScarceAndTheSumOfLoansStaysWithinTheFund) {
  Pair pair(tight(1), tight(2));
  pair.connect();
  std::vector<uint64_t> ids;
  for (int i = 0; i < 16; ++i) ids.push_back(*pair.a.open());
  uint64_t most_alone = 0;
  for (int i = 0; i < 50; ++i) {
    most_alone = std::max(most_alone, pair.a.queue(ids[0], UINT64_MAX));
    pair.settle();
  }
  for (int i = 0; i < 300; ++i) {
    for (const uint64_t id : ids) pair.a.queue(id, UINT64_MAX);
    pair.settle();
    ASSERT_LE(pair.b.session.stats().borrowed, 256u * 1024);
  }
  uint64_t most_together = 0;
  for (const uint64_t id : ids)
    most_together = std::max(most_together, pair.a.queue(id, UINT64_MAX));
  EXPECT_LT(most_together, most_alone);
  EXPECT_GE(most_together, 4096u + 256 * 1024 / 17 / 2)
      << "and nobody is left with what is promised";
  for (const uint64_t id : ids) EXPECT_GT(pair.a.at(id).queued, 100u * 1024) << id;
}

// Grows the window of a stream from a to b, then leaves b holding bytes that it borrowed for.
uint64_t borrow(Pair& pair) {
  const uint64_t id = *pair.a.open();
  for (int i = 0; i < 40; ++i) {
    pair.a.queue(id, UINT64_MAX);
    pair.settle();
  }
  pair.b.takes_at_once = false;
  pair.a.queue(id, UINT64_MAX);
  pair.settle();
  EXPECT_GT(pair.b.session.stats().borrowed, 0u);
  EXPECT_GT(pair.b.session.stats().held, 0u);
  return id;
}

TEST(Credit, ReturnsWhenTheReceiverResets) {
  Pair pair(tight(1), tight(2));
  pair.connect();
  pair.b.reset(borrow(pair));
  EXPECT_EQ(pair.b.session.stats().borrowed, 0u);
  pair.settle();
  pair.expect_nothing_left();
}

TEST(Credit, ReturnsWhenTheSenderResets) {
  Pair pair(tight(1), tight(2));
  pair.connect();
  pair.a.reset(borrow(pair));
  pair.settle();
  pair.expect_nothing_left();
}

TEST(Credit, ReturnsAtTheEndAsTheLastBytesAreTaken) {
  Pair pair(tight(1), tight(2));
  pair.connect();
  const uint64_t id = borrow(pair);
  pair.a.end(id);
  pair.b.end(id);
  pair.settle();
  const Session::Stats stats = pair.b.session.stats();
  EXPECT_EQ(stats.borrowed, stats.held - std::min<uint64_t>(stats.held, 4096));
  pair.b.take(id, UINT64_MAX);
  EXPECT_EQ(pair.b.session.stats().borrowed, 0u);
  pair.settle();
  pair.expect_nothing_left();
}

TEST(Credit, BeyondTheEndReturnsAsSoonAsTheEndIsKnown) {
  Pair pair(tight(1), tight(2));
  pair.connect();
  const uint64_t id = borrow(pair);
  pair.b.take(id, UINT64_MAX);
  pair.settle();
  ASSERT_GT(pair.b.session.stats().borrowed, 0u) << "granted for bytes that may come";
  pair.a.end(id);
  pair.settle();
  EXPECT_EQ(pair.b.session.stats().borrowed, 0u);
}

TEST(Credit, ReturnsWhenTheLinkIsLost) {
  Pair pair(tight(1), tight(2));
  pair.connect();
  borrow(pair);
  pair.drop_link();
  pair.expect_nothing_left();
}

TEST(Credit, LateDataOfADeadStreamIsSkippedAndLeaksNothing) {
  Pair pair(tight(1), tight(2));
  pair.connect();
  const uint64_t id = borrow(pair);
  pair.b.take(id, UINT64_MAX);
  pair.settle();
  const uint64_t received = pair.b.at(id).received;
  ASSERT_GT(pair.a.queue(id, 60'000), 4096u);
  pair.a.write(1 << 20, pair.now);  // on its way when b resets
  pair.b.reset(id);
  pair.settle();
  EXPECT_EQ(pair.b.at(id).received, received);
  EXPECT_EQ(pair.a.at(id).fate, Fate::kResetByPeer);
  EXPECT_TRUE(pair.b.downs.empty());
  pair.expect_nothing_left();
}

TEST(Credit, CreditThatWasNeverGivenIsNotOffered) {
  Puppet puppet(tight(7));
  puppet.mine.initial_window = 100;
  puppet.establish();
  const auto key = puppet.session.open("echo", Priority::kNormal, {});
  EXPECT_EQ(puppet.session.request_credit(*key), 100u);
  puppet.session.queue(*key, 100);
  EXPECT_EQ(puppet.session.request_credit(*key), 0u);
  const uint32_t number = puppet.hear()[0].stream;
  puppet.say(puppet.frame({FrameType::kCredit, false, number, 0, 100}));
  EXPECT_FALSE(puppet.event(Event::Kind::kCredit)) << "the limit did not move";
  puppet.say(puppet.frame({FrameType::kCredit, false, number, 0, 250}));
  EXPECT_TRUE(puppet.event(Event::Kind::kCredit));
  EXPECT_EQ(puppet.session.request_credit(*key), 150u);
}

TEST(Credit, IsRenewedOnlyWhenHalfAWindowIsUsedSoThatTinyReadsCostNoFrames) {
  Puppet puppet(tight(7));
  puppet.establish();
  const uint32_t number = stream_number(0, 1);
  puppet.say(puppet.open(number));
  const StreamKey key = puppet.event(Event::Kind::kOpened)->stream;
  for (uint64_t i = 0; i < 2047; ++i) {
    puppet.say(puppet.data(number, i, 1));
    EXPECT_TRUE(puppet.session.credit_unaffected_by(key, 1));
    puppet.session.consumed(key, 1);
  }
  EXPECT_TRUE(puppet.hear().empty());
  puppet.say(puppet.data(number, 2047, 1));
  EXPECT_FALSE(puppet.session.credit_unaffected_by(key, 1));
  puppet.session.consumed(key, 1);
  const auto frames = puppet.hear();
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_EQ(frames[0].type, FrameType::kCredit);
  EXPECT_EQ(frames[0].argument, 2048u + 8192u) << "and the window has doubled";
}

}  // namespace
}  // namespace virtproxy::test
