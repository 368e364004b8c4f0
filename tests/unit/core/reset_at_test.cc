// A stream that an application breaks off: what it had sent before arrives, then the reset.
#include <gtest/gtest.h>

#include "tests/unit/core/pair.h"
#include "tests/unit/core/puppet.h"
#include "tests/unit/core/stream_life.h"

namespace virtproxy::test {
namespace {

class ResetAtTest : public testing::Test {
 protected:
  void SetUp() override { pair.connect(); }
  Pair pair;
};

TEST_F(ResetAtTest, FollowsWhatWasQueuedWhoeverOpened) {
  for (const bool opener : {true, false}) {
    const uint64_t id = *pair.a.open();
    pair.settle();
    End& breaks = opener ? pair.a : pair.b;
    End& other = opener ? pair.b : pair.a;
    const uint64_t queued = breaks.queue(id, 10'000);
    breaks.break_off(id);
    EXPECT_TRUE(breaks.open_here(id)) << "the driver still has what is queued";
    pair.settle();
    EXPECT_EQ(breaks.at(id).fate, Fate::kResetHere);
    EXPECT_EQ(other.at(id).received, queued);
    EXPECT_EQ(other.at(id).fate, Fate::kResetByPeer);
    EXPECT_FALSE(other.at(id).end_seen);
    pair.expect_nothing_left();
  }
}

TEST_F(ResetAtTest, WaitsUntilTheOtherApplicationHasTakenEverything) {
  pair.b.takes_at_once = false;
  const uint64_t id = *pair.a.open();
  pair.a.queue(id, 1000);
  pair.a.break_off(id);
  pair.settle();
  EXPECT_EQ(pair.b.at(id).fate, Fate::kOpen);
  EXPECT_TRUE(pair.b.at(id).peer_broke_off);
  EXPECT_EQ(pair.b.queue(id, 10), 0u) << "nobody would read it";
  pair.b.take(id, 999);
  pair.settle();
  EXPECT_EQ(pair.b.at(id).fate, Fate::kOpen);
  EXPECT_EQ(pair.a.session.stats().streams, 1u) << "its number is taken until then";
  pair.b.take(id, 1);
  pair.settle();
  EXPECT_EQ(pair.b.at(id).fate, Fate::kResetByPeer);
  pair.expect_nothing_left();
}

TEST_F(ResetAtTest, AReaderThatGivesUpResetsAtOnce) {
  pair.b.takes_at_once = false;
  const uint64_t id = *pair.a.open();
  pair.a.queue(id, 1000);
  pair.a.break_off(id);
  pair.settle();
  pair.b.reset(id);
  pair.settle();
  pair.expect_nothing_left();
}

TEST_F(ResetAtTest, ComesAfterAnEndThatWasQueuedBefore) {
  const uint64_t id = *pair.a.open();
  pair.a.queue(id, 1000);
  pair.a.end(id);
  pair.a.break_off(id);
  pair.settle();
  EXPECT_TRUE(pair.b.at(id).end_seen);
  EXPECT_EQ(pair.b.at(id).received, 1000u);
  EXPECT_EQ(pair.b.at(id).fate, Fate::kResetByPeer);
  pair.expect_nothing_left();
}

TEST_F(ResetAtTest, NothingIsGrantedToWhoSendsToAnApplicationThatTakesNothing) {
  Puppet puppet;
  puppet.establish();
  const uint32_t one = stream_number(0, 1);
  puppet.say(puppet.open(one));
  const StreamKey key = puppet.event(Event::Kind::kOpened)->stream;
  puppet.say(puppet.data(one, 0, 100));
  puppet.session.discard_input(key);
  EXPECT_EQ(puppet.session.stats().held, 0u);
  const uint64_t window = puppet.session.streams().at(key.slot).granted;
  for (uint64_t at = 100; at < window;) {
    const uint64_t size = std::min<uint64_t>(window - at, 4096);
    puppet.say(puppet.data(one, at, size));
    at += size;
    ASSERT_EQ(puppet.fault(), Fault::kNone);
    EXPECT_FALSE(puppet.event(Event::Kind::kData));
    EXPECT_FALSE(puppet.heard(FrameType::kCredit, puppet.hear()));
  }
  EXPECT_EQ(puppet.session.stats().held, 0u);
  puppet.say(puppet.data(one, window, 1));
  EXPECT_EQ(puppet.fault(), Fault::kCreditExceeded);
}

TEST(ResetAt, IsAnImmediateResetBesideAPeerWithoutTheFeature) {
  SessionConfig old = config_with(2);
  old.supported_features &= ~feature::kReliableReset;
  for (const bool opener : {true, false}) {
    Pair pair(config_with(1), old);
    pair.connect();
    const uint64_t id = *pair.a.open();
    pair.settle();
    End& breaks = opener ? pair.a : pair.b;
    End& other = opener ? pair.b : pair.a;
    EXPECT_FALSE(breaks.session.delivers_before_reset(breaks.at(id).key));
    breaks.queue(id, 1000);
    breaks.break_off(id);
    EXPECT_EQ(breaks.at(id).fate, Fate::kResetHere);
    pair.settle();
    EXPECT_EQ(other.at(id).received, 0u);
    EXPECT_EQ(other.at(id).fate, Fate::kResetByPeer);
    EXPECT_TRUE(pair.a.downs.empty() && pair.b.downs.empty());
    pair.expect_nothing_left();
  }
}

constexpr size_t kNever = kSteps + 1;

enum class How { kBreaksOff, kResets };

void part(End& end, uint64_t id, How how) {
  if (!end.open_here(id)) return;
  how == How::kBreaksOff ? end.break_off(id) : end.reset(id);
}

void live_and_part(size_t a_at, How a_how, size_t b_at, How b_how, uint64_t features) {
  Pair pair(config_with(1, features), config_with(2, features));
  pair.connect();
  pair.b.takes_at_once = false;
  for (int round = 0; round < 2; ++round) {
    const uint64_t id = *pair.a.open();
    for (size_t i = 0; i <= kSteps; ++i) {
      if (i == a_at) part(pair.a, id, a_how);
      if (i == b_at) part(pair.b, id, b_how);
      if (i < kSteps) kLife[i](pair, id);
    }
    pair.settle();
    const auto at_b = pair.b.conversations.find(id);
    if (at_b != pair.b.conversations.end()) {
      if (at_b->second.fate == Fate::kOpen) pair.b.take(id, UINT64_MAX);
      pair.settle();
      if (b_at == kNever && a_how == How::kBreaksOff && a_at < kNever) {
        EXPECT_EQ(at_b->second.received, pair.a.at(id).queued);
      }
    }
    if (a_at == kNever && b_how == How::kBreaksOff && at_b != pair.b.conversations.end() &&
        at_b->second.broke_off) {
      EXPECT_EQ(pair.a.at(id).received, at_b->second.queued);
    }
    ASSERT_TRUE(pair.a.downs.empty() && pair.b.downs.empty())
        << fault_text(pair.a.downs.empty() ? pair.b.downs[0] : pair.a.downs[0]);
    if (a_at != kNever || b_at != kNever) pair.expect_nothing_left();
    if (testing::Test::HasFailure()) return;
  }
}

TEST(ResetAt, MayComeAtEveryStageFromEitherSideOrFromBothAtOnce) {
  for (const uint64_t features :
       {uint64_t{0}, feature::kCommitTrailer, feature::kChecksumTrailer}) {
    for (size_t a = 0; a <= kNever; ++a) {
      for (size_t b = 0; b <= kNever; ++b) {
        for (const auto& [a_how, b_how] :
             {std::pair{How::kBreaksOff, How::kBreaksOff}, std::pair{How::kBreaksOff, How::kResets},
              std::pair{How::kResets, How::kBreaksOff}}) {
          live_and_part(a, a_how, b, b_how, features);
          ASSERT_FALSE(testing::Test::HasFailure())
              << a << " " << b << " " << features << " " << static_cast<int>(a_how)
              << static_cast<int>(b_how);
        }
      }
    }
  }
}

}  // namespace
}  // namespace virtproxy::test
