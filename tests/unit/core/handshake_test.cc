// How two ends agree on a session, whatever lies in the pipe.
#include "core/v2/handshake.h"

#include <gtest/gtest.h>

#include "tests/unit/core/pair.h"
#include "tests/unit/core/puppet.h"

namespace virtproxy::test {
namespace {

bool both_up(const Pair& pair) { return pair.a.session.up() && pair.b.session.up(); }

TEST(Handshake, SucceedsWhoeverStartsFirst) {
  for (const bool a_first : {true, false}) {
    Pair pair;
    End& first = a_first ? pair.a : pair.b;
    End& second = a_first ? pair.b : pair.a;
    first.transport_up(pair.now);
    for (int i = 0; i < 100; ++i) {
      pair.now += milliseconds(100);
      first.write(1 << 20, pair.now);
    }
    EXPECT_LE(first.out.size(), 9 * kHelloSize) << "greetings are repeated with back-off";
    second.transport_up(pair.now);
    pair.settle();
    EXPECT_TRUE(both_up(pair));
  }
}

TEST(Handshake, SucceedsWhenGreetingsCross) {
  Pair pair;
  pair.transport_up();
  for (int i = 0; i < 4; ++i) {
    pair.a.write(1 << 20, pair.now);
    pair.b.write(1 << 20, pair.now);
    const size_t b_had = pair.b.out.size();
    pair.carry(pair.a, pair.b, SIZE_MAX);
    pair.carry(pair.b, pair.a, b_had);
  }
  EXPECT_TRUE(both_up(pair));
}

TEST(Handshake, EstablishedEndsFallSilent) {
  Pair pair;
  pair.connect();
  EXPECT_FALSE(pair.a.session.deadline());
  EXPECT_FALSE(pair.b.session.deadline());
  EXPECT_EQ(pair.a.ups, 1u);
  EXPECT_EQ(pair.b.ups, 1u);
}

TEST(Handshake, StaleBytesOfAnEarlierLifeAreSkipped) {
  Random random(5);
  for (int round = 0; round < 200; ++round) {
    Pair earlier(config_with(100 + below(random, 50)), config_with(200));
    earlier.connect();
    const uint64_t id = *earlier.a.open();
    earlier.a.queue(id, 3000);
    earlier.a.write(1 << 20, earlier.now);
    const uint64_t back = *earlier.b.open();
    earlier.b.queue(back, 3000);
    earlier.b.write(1 << 20, earlier.now);

    Pair pair;
    pair.cuts = Random(static_cast<uint64_t>(round));
    const auto stale = [&](const Bytes& bytes) {
      const size_t from = below(random, bytes.size());
      return Bytes(bytes.begin() + static_cast<ptrdiff_t>(from),
                   bytes.end() - static_cast<ptrdiff_t>(below(random, bytes.size() - from)));
    };
    pair.a.out = stale(earlier.a.out);
    pair.b.out = stale(earlier.b.out);
    pair.transport_up();
    pair.run_for(seconds(10));
    ASSERT_TRUE(both_up(pair)) << round;
    ASSERT_TRUE(pair.a.conversations.empty() && pair.b.conversations.empty());
    ASSERT_EQ(pair.a.ups, 1u);
    ASSERT_EQ(pair.b.ups, 1u);
  }
}

TEST(Handshake, StaleGreetingsCannotEstablish) {
  // The b of an earlier life greeted a, which has greeted anew since.
  Puppet puppet;
  puppet.session.transport_up(puppet.now);
  puppet.hear();
  const uint64_t old = puppet.hellos.back().epoch;
  Events events;
  puppet.session.transport_down(events);
  puppet.session.transport_up(puppet.now);
  puppet.hear();
  puppet.greet(old);
  EXPECT_FALSE(puppet.session.up());
  puppet.hear();
  EXPECT_EQ(puppet.hellos.back().echo, puppet.mine.epoch) << "but it is answered";
  puppet.greet(puppet.hellos.back().epoch);
  EXPECT_TRUE(puppet.session.up());
}

TEST(Handshake, ReflectedGreetingsAreIgnored) {
  Pair pair;
  pair.a.transport_up(pair.now);
  for (int i = 0; i < 50; ++i) {
    pair.now += milliseconds(300);
    pair.a.write(1 << 20, pair.now);
    pair.carry(pair.a, pair.a, SIZE_MAX);
  }
  EXPECT_FALSE(pair.a.session.up()) << "it talks to itself";
}

TEST(Handshake, RepeatedOnesOfTheSameSessionDisturbNothing) {
  Puppet puppet;
  puppet.establish();
  for (int i = 0; i < 20; ++i) {
    puppet.say(hello_bytes(puppet.mine));
    EXPECT_TRUE(puppet.session.up());
    puppet.hellos.clear();
    puppet.hear();
    ASSERT_EQ(puppet.hellos.size(), 1u) << "the first answer may have been lost";
    EXPECT_TRUE(puppet.hellos[0].joined);
    EXPECT_EQ(puppet.hellos[0].frames, 0u);
  }
  puppet.mine.joined = true;
  puppet.say(hello_bytes(puppet.mine));
  puppet.hellos.clear();
  puppet.hear();
  EXPECT_TRUE(puppet.hellos.empty()) << "answers are not answered";
}

TEST(Handshake, SlowLineFullOfRepeatsConvergesAtOnce) {
  for (const int delay_ms : {50, 1000, 5000, 30'000}) {
    Pair pair;
    pair.transport_up();
    std::vector<std::pair<Instant, Bytes>> to_b;
    std::vector<std::pair<Instant, Bytes>> to_a;
    for (int ms = 0; ms < delay_ms * 8; ms += 10) {
      pair.now += milliseconds(10);
      pair.a.write(1 << 20, pair.now);
      pair.b.write(1 << 20, pair.now);
      const Instant at = pair.now + milliseconds(delay_ms);
      if (!pair.a.out.empty()) to_b.emplace_back(at, std::exchange(pair.a.out, {}));
      if (!pair.b.out.empty()) to_a.emplace_back(at, std::exchange(pair.b.out, {}));
      while (!to_b.empty() && to_b.front().first <= pair.now) {
        pair.b.read(to_b.front().second, pair.now);
        to_b.erase(to_b.begin());
      }
      while (!to_a.empty() && to_a.front().first <= pair.now) {
        pair.a.read(to_a.front().second, pair.now);
        to_a.erase(to_a.begin());
      }
    }
    EXPECT_TRUE(both_up(pair)) << delay_ms;
    EXPECT_EQ(pair.a.ups, 1u) << delay_ms;
    EXPECT_EQ(pair.b.ups, 1u) << delay_ms;
  }
}

TEST(Handshake, LossOfAnyGreetingIsMadeGood) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    Pair pair;
    pair.transport_up();
    for (int i = 0; i < 3000; ++i) {
      pair.now += milliseconds(10);
      pair.a.write(1 << 20, pair.now);
      pair.b.write(1 << 20, pair.now);
      if (pair.a.session.up() && pair.a.conversations.empty()) pair.a.open();
      for (End* end : {&pair.a, &pair.b}) {
        if (i < 500 && below(random, 2) == 0) end->out.clear();
      }
      pair.carry(pair.a, pair.b, SIZE_MAX);
      pair.carry(pair.b, pair.a, SIZE_MAX);
    }
    ASSERT_TRUE(both_up(pair)) << seed;
    const auto id = pair.a.open();
    ASSERT_TRUE(id);
    pair.settle();
    ASSERT_TRUE(pair.b.open_here(*id)) << seed;
  }
}

TEST(Handshake, EndThatMissedFramesDoesNotJoin) {
  Puppet puppet;
  puppet.session.transport_up(puppet.now);
  puppet.hear();
  puppet.mine.echo = puppet.hellos[0].epoch;
  puppet.mine.joined = true;
  puppet.mine.frames = 3;
  puppet.say(hello_bytes(puppet.mine));
  EXPECT_FALSE(puppet.session.up());
  puppet.hear();
  EXPECT_NE(puppet.hellos.back().epoch, puppet.hellos[0].epoch);
  EXPECT_EQ(puppet.hellos.back().echo, puppet.mine.epoch);
}

TEST(Handshake, AnswerThatCountsMoreFramesThanArrivedEndsTheSession) {
  Puppet puppet;
  puppet.establish();
  puppet.say(puppet.frame({FrameType::kPing, false, 0, 0, 0}));
  puppet.mine.joined = true;
  puppet.mine.frames = 1;
  puppet.say(hello_bytes(puppet.mine));
  EXPECT_TRUE(puppet.session.up());
  puppet.mine.frames = 2;
  puppet.say(hello_bytes(puppet.mine));
  EXPECT_EQ(puppet.fault(), Fault::kFrameLost);
}

TEST(Handshake, OtherVersionIsReportedAndNeverJoined) {
  Puppet puppet;
  puppet.mine.version_min = puppet.mine.version_max = 3;
  puppet.session.transport_up(puppet.now);
  puppet.hear();
  puppet.greet(puppet.hellos[0].epoch);
  EXPECT_FALSE(puppet.session.up());
  EXPECT_TRUE(puppet.event(Event::Kind::kNoVersion));
  puppet.mine.version_min = 2;
  puppet.greet(puppet.hellos[0].epoch);
  EXPECT_TRUE(puppet.session.up());
}

TEST(Handshake, FeatureIsOnWhenEitherEndWantsItAndBothSupportIt) {
  for (const bool supported : {true, false}) {
    Puppet puppet(config_with(7, feature::kChecksumTrailer));
    if (!supported) puppet.mine.supported = 0;
    puppet.mine.wanted = uint64_t{1} << 63;  // of a later version
    puppet.establish();
    EXPECT_EQ(puppet.session.uses_trailers(), supported);
  }
  Pair pair(config_with(1), config_with(2, feature::kCommitTrailer));
  pair.connect();
  EXPECT_TRUE(pair.a.session.uses_trailers() && pair.b.session.uses_trailers());
}

TEST(Handshake, PenaltyGrowsWithFaultsAndIsForgivenAfterGoodConduct) {
  Puppet puppet;
  puppet.establish();
  const auto fault_and_wait = [&] {
    puppet.say(Bytes(kHeaderSize, std::byte{0x77}));
    EXPECT_NE(puppet.fault(), Fault::kNone);
    const Duration wait = *puppet.session.deadline() - puppet.now;
    EXPECT_FALSE(puppet.session.wants_to_write(puppet.now));
    puppet.kept.clear();
    puppet.now += wait;
    puppet.hear();
    puppet.greet(puppet.hellos.back().epoch);
    EXPECT_TRUE(puppet.session.up());
    puppet.hear();
    return wait;
  };
  Duration last{};
  for (int i = 0; i < 8; ++i) {
    const Duration wait = fault_and_wait();
    EXPECT_EQ(wait, milliseconds(50) * (1 << i));
    last = wait;
  }
  EXPECT_EQ(fault_and_wait(), last) << "it has an end";
  puppet.now += seconds(11);
  EXPECT_EQ(fault_and_wait(), milliseconds(50));
}

TEST(Handshake, PeerThatDoesNothingButRestartIsSlowedDown) {
  Puppet puppet;
  puppet.establish();
  int at_once = 0;
  for (uint64_t i = 0; i < 10; ++i) {
    puppet.mine.epoch = 1000 + i;
    puppet.mine.echo = 0;
    puppet.say(hello_bytes(puppet.mine));
    ASSERT_EQ(puppet.fault(), Fault::kPeerRestarted);
    if (*puppet.session.deadline() == puppet.now) ++at_once;
    puppet.now = *puppet.session.deadline();
    puppet.hear();
    puppet.greet(puppet.hellos.back().epoch);
    ASSERT_TRUE(puppet.session.up());
    puppet.hear();
  }
  EXPECT_EQ(at_once, 4);
}

}  // namespace
}  // namespace virtproxy::test
