// A peer that is replaced without the link telling: between frames, and in the middle of one.
#include <gtest/gtest.h>

#include "tests/unit/core/pair.h"
#include "tests/unit/core/puppet.h"

namespace virtproxy::test {
namespace {

constexpr uint32_t kStream = stream_number(0, 1);

// The daemon at one end is killed and started again; what it wrote stays in the pipe.
void restart(Pair& pair, End& end, uint64_t secret, uint64_t features) {
  const Bytes stale = end.out;
  end = End(config_with(secret, features), secret * 1'000'000'000);
  end.out = stale;
  end.transport_up(pair.now);
}

void exchange_something(Pair& pair) {
  const auto id = pair.a.open();
  ASSERT_TRUE(id);
  pair.a.queue(*id, 5000);
  pair.a.end(*id);
  pair.settle();
  ASSERT_EQ(pair.b.at(*id).received, 5000u);
  pair.b.end(*id);
  pair.settle();
  ASSERT_EQ(pair.a.at(*id).fate, Fate::kClosed);
}

TEST(Restart, BetweenFramesIsSeenAtOnceAtTheOtherEnd) {
  for (const uint64_t features : {uint64_t{0}, feature::kCommitTrailer}) {
    Pair pair(config_with(1, features), config_with(2, features));
    pair.connect();
    const uint64_t id = *pair.a.open();
    pair.a.queue(id, 1000);
    pair.settle();
    restart(pair, pair.b, 3, features);
    pair.settle();
    EXPECT_EQ(pair.a.downs, std::vector<Fault>{Fault::kPeerRestarted});
    EXPECT_EQ(pair.a.at(id).fate, Fate::kLost);
    EXPECT_TRUE(pair.a.session.up() && pair.b.session.up());
    exchange_something(pair);
  }
}

TEST(Restart, OfBothEndsAtOnceConverges) {
  Pair pair;
  pair.connect();
  restart(pair, pair.a, 3, 0);
  restart(pair, pair.b, 4, 0);
  pair.run_for(seconds(5));
  EXPECT_TRUE(pair.a.session.up() && pair.b.session.up());
  exchange_something(pair);
}

// The sender dies with `written` bytes of its last batch in the pipe. The reader may see the break
// in one piece or in many.
void die_in_mid_frame(size_t written, bool in_pieces, uint64_t features) {
  Pair pair(config_with(1, features), config_with(2, features));
  pair.connect();
  const uint64_t id = *pair.a.open();
  pair.settle();
  for (int i = 0; i < 4; ++i) {  // windows grow
    pair.a.queue(id, UINT64_MAX);
    pair.settle();
  }
  ASSERT_GT(pair.a.queue(id, 40'000), 20'000u);
  pair.a.write(1 << 20, pair.now);
  pair.a.out.resize(std::min(written, pair.a.out.size()));
  if (in_pieces) pair.cuts = Random(written);
  pair.most_piece = 700;
  restart(pair, pair.a, 3, features);
  pair.run_for(seconds(5));
  ASSERT_TRUE(pair.a.session.up() && pair.b.session.up()) << written;
  ASSERT_EQ(pair.b.downs.size(), 1u);
  pair.cuts.reset();
  exchange_something(pair);
}

TEST(Restart, InMidFrameIsSettledWithinSecondsWhenTrailersAreOn) {
  for (const bool in_pieces : {false, true}) {
    for (const uint64_t features : {feature::kCommitTrailer, feature::kChecksumTrailer}) {
      for (const size_t written : {1u, 5u, 23u, 24u, 25u, 100u, 1043u, 1044u, 10'000u, 19'000u}) {
        die_in_mid_frame(written, in_pieces, features);
        ASSERT_FALSE(testing::Test::HasFailure()) << written << in_pieces;
      }
    }
  }
}

class MidFrame : public testing::Test {
 protected:
  void SetUp() override {
    puppet.trailer = TrailerKind::kChecksum;
    puppet.mine.wanted = feature::kChecksumTrailer;
    puppet.establish();
    puppet.say(puppet.open(kStream));
    whole = puppet.data(kStream, 0, 16'000);
  }
  Bytes part(size_t from, size_t to) const {
    return Bytes(whole.begin() + static_cast<ptrdiff_t>(from),
                 whole.begin() + static_cast<ptrdiff_t>(to));
  }
  Hello greeting_of(uint64_t epoch, uint64_t echo = 0) const {
    Hello hello = puppet.mine;
    hello.epoch = epoch;
    hello.echo = echo;
    return hello;
  }
  std::optional<Hello> probe() {
    puppet.hellos.clear();
    puppet.hear();
    if (puppet.hellos.empty()) return std::nullopt;
    EXPECT_EQ(puppet.hellos.size(), 1u);
    EXPECT_TRUE(puppet.hellos[0].probe);
    return puppet.hellos[0];
  }

  Puppet puppet;
  Bytes whole;
};

TEST_F(MidFrame, GreetingInAnUnfinishedFrameIsAskedAndItsAnswerBeginsTheNextSession) {
  puppet.say(part(0, 3000));
  puppet.say(hello_bytes(greeting_of(5555)));
  EXPECT_TRUE(puppet.session.up());
  const auto asked = probe();
  ASSERT_TRUE(asked);
  EXPECT_EQ(asked->echo, 5555u);
  puppet.say(hello_bytes(greeting_of(5555, asked->epoch)));
  EXPECT_EQ(puppet.fault(), Fault::kPeerRestarted);
  EXPECT_TRUE(puppet.session.up());
  EXPECT_TRUE(puppet.event(Event::Kind::kUp));
  puppet.hear();
  EXPECT_EQ(puppet.hellos.back().epoch, asked->epoch);
  EXPECT_EQ(puppet.hellos.back().echo, 5555u);
  EXPECT_FALSE(puppet.hellos.back().probe);
}

TEST_F(MidFrame, QuestionIsRepeatedWhenItsAnswerDoesNotCome) {
  puppet.say(part(0, 3000));
  int asked = 0;
  for (int i = 0; i < 6; ++i) {
    puppet.say(hello_bytes(greeting_of(5555)));
    if (probe()) ++asked;
    puppet.now += milliseconds(1000);
  }
  EXPECT_EQ(asked, 6);
}

TEST_F(MidFrame, InnocentGreetingInAPayloadDisturbsNothing) {
  Bytes payload(16'000);
  const Bytes innocent = hello_bytes(greeting_of(5555));
  std::copy(innocent.begin(), innocent.end(), payload.begin() + 2000);
  const Bytes frame = puppet.frame(
      {FrameType::kData, true, kStream, static_cast<uint32_t>(payload.size()), 0}, payload);
  puppet.say(Bytes(frame.begin(), frame.begin() + 8000));
  EXPECT_TRUE(probe());
  puppet.say(Bytes(frame.begin() + 8000, frame.end()));
  const auto data = puppet.event(Event::Kind::kData);
  ASSERT_TRUE(data);
  EXPECT_TRUE(std::equal(data->bytes.begin(), data->bytes.end(), payload.begin(), payload.end()));
  EXPECT_EQ(puppet.session.stats().sessions, 1u);
  EXPECT_FALSE(puppet.session.wants_to_write(puppet.now));
}

TEST_F(MidFrame, ProbeIsIgnoredByAPeerThatDidNotRestart) {
  Hello probe = greeting_of(777, puppet.hellos[0].epoch);
  probe.probe = true;
  puppet.say(hello_bytes(probe));
  EXPECT_TRUE(puppet.session.up());
  EXPECT_FALSE(puppet.session.wants_to_write(puppet.now));
}

TEST_F(MidFrame, ForgedAnswersCannotEndTheSession) {
  Bytes payload(16'000);
  Random random(6);
  const Bytes header = puppet.frame({FrameType::kData, true, kStream, 16'000, 0}, payload);
  puppet.say(Bytes(header.begin(), header.begin() + kHeaderSize));
  for (int i = 0; i < 10; ++i) {
    Hello forged = greeting_of(below(random, 3) + 1, random());
    forged.probe = below(random, 4) == 0;
    puppet.say(hello_bytes(forged));
    puppet.hear();
    puppet.now += milliseconds(500);
    ASSERT_EQ(puppet.fault(), Fault::kNone);
  }
  EXPECT_EQ(puppet.session.stats().sessions, 1u);
}

TEST_F(MidFrame, PayloadFullOfGreetingsCausesAtMostOneQuestionASecond) {
  puppet.say(part(0, 100));
  size_t probes = 0;
  for (uint64_t i = 0; i < 14; ++i) {
    puppet.say(hello_bytes(greeting_of(6000 + i)));
    if (probe()) ++probes;
    puppet.now += milliseconds(100);
  }
  EXPECT_LE(probes, 2u);
}

TEST_F(MidFrame, GreetingsThatFillTheUnfinishedFrameEndItByItsTrailer) {
  puppet.say(part(0, 15'000));
  puppet.say(hello_bytes(greeting_of(5555)));
  EXPECT_EQ(puppet.fault(), Fault::kBadTrailer);
  EXPECT_FALSE(puppet.session.up());
  puppet.now = *puppet.session.deadline();
  puppet.hear();
  EXPECT_EQ(puppet.hellos.back().echo, 5555u) << "the greeting inside was read all the same";
}

TEST_F(MidFrame, FrameThatArrivesByteByByteIsSearchedOnce) {
  // 16,000 reads of a frame full of beginnings of greetings: quadratic work would take minutes.
  const Bytes hello = hello_bytes(greeting_of(5555));
  Bytes payload(16'000);
  for (size_t i = 0; i + 16 <= payload.size(); i += 16) {
    std::copy_n(hello.begin(), 16, payload.begin() + static_cast<ptrdiff_t>(i));
  }
  const Bytes frame = puppet.frame({FrameType::kData, true, kStream, 16'000, 0}, payload);
  for (const std::byte b : frame) puppet.say({b});
  EXPECT_EQ(puppet.fault(), Fault::kNone);
  EXPECT_TRUE(puppet.event(Event::Kind::kData));
}

}  // namespace
}  // namespace virtproxy::test
