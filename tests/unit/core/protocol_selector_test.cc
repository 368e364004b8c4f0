// Which protocol two ends agree on: every pair of settings, whoever starts first, whatever lies in
// the pipe; and that it is found out again when one of them is replaced.
#include "core/protocol_selector.h"

#include <gtest/gtest.h>

#include "tests/unit/core/v1_pair.h"

namespace virtproxy::test {
namespace {

constexpr ProtocolMode kAuto = ProtocolMode::kAuto;
constexpr ProtocolMode kV1 = ProtocolMode::kV1;
constexpr ProtocolMode kV2 = ProtocolMode::kV2;

Bytes v1_init(int32_t client = 5, std::string_view service = "s900") {
  Bytes bytes(kV1PacketSize);
  encode_v1_init(client, service, bytes.data());
  return bytes;
}
Bytes v1_data() {
  Bytes bytes(kV1PacketSize);
  encode_v1_data_head(V1Type::kClient, 5, 6, 1024, bytes.data());
  encode_v1_tail(std::span(bytes).last(4));
  return bytes;
}
Bytes stale_hello() {
  Hello hello;
  hello.epoch = 0x5757;
  hello.echo = 0x7575;
  hello.max_streams = 16;
  hello.initial_window = 4096;
  hello.max_frame = 4096;
  return hello_bytes(hello);
}
Bytes half(Bytes bytes) {
  bytes.resize(bytes.size() / 2);
  return bytes;
}
Bytes frames() {
  Bytes bytes;
  Random random(3);
  for (int i = 0; i < 3000; ++i) bytes.push_back(static_cast<std::byte>(random()));
  return bytes;
}
Bytes join(std::initializer_list<Bytes> parts) {
  Bytes all;
  for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

// A stream each way, with bytes each way.
void expect_traffic(ChoosingPair& pair, uint64_t id) {
  for (ChoosingEnd* opener : {&pair.a, &pair.b}) {
    ChoosingEnd& other = opener == &pair.a ? pair.b : pair.a;
    ASSERT_TRUE(opener->open(++id));
    pair.settle();
    ASSERT_TRUE(other.is_open(id));
    ASSERT_EQ(opener->queue(id, 4000), 4000u);
    ASSERT_EQ(other.queue(id, 3000), 3000u);
    pair.settle();
    EXPECT_EQ(other.at(id).received, 4000u);
    EXPECT_EQ(opener->at(id).received, 3000u);
    opener->reset(id);
    pair.settle();
  }
}

struct Stale {
  const char* name;
  Bytes bytes;
};
const std::vector<Stale>& stale_bytes() {
  static const std::vector<Stale> all{
      {"nothing", {}},
      {"half a packet", Bytes(500, std::byte{7})},
      {"an old packet", v1_init()},
      {"old data", join({v1_data(), v1_data(), v1_data()})},
      {"the end of an old packet, and more",
       join({Bytes(400, std::byte{1}), v1_init(), v1_data()})},
      {"a stale greeting", stale_hello()},
      {"stale greetings and old packets",
       join({v1_init(), stale_hello(), v1_init(), stale_hello(), v1_data()})},
      {"frames", frames()},
      {"half a greeting", half(stale_hello())},
  };
  return all;
}

TEST(ProtocolSelector, EveryPairOfSettingsFindsItsProtocolWhoeverStartsFirst) {
  for (const ProtocolMode mode_a : {kAuto, kV1, kV2}) {
    for (const ProtocolMode mode_b : {kAuto, kV1, kV2}) {
      const bool never = (mode_a == kV1 && mode_b == kV2) || (mode_a == kV2 && mode_b == kV1);
      const unsigned expected = mode_a == kV1 || mode_b == kV1 ? 1 : 2;
      for (const Duration delay : {Duration{}, Duration(milliseconds(100)), Duration(kGrace),
                                   Duration(seconds(5)), Duration(seconds(100))}) {
        for (const bool a_first : {true, false}) {
          for (const Stale& stale : stale_bytes()) {
            ChoosingPair pair(mode_a, mode_b);
            pair.a.out = stale.bytes;
            pair.b.out = stale.bytes;
            const std::string what = std::string(stale.name) + ", modes " +
                                     std::to_string(int(mode_a)) + std::to_string(int(mode_b)) +
                                     ", delay " + std::to_string(delay / milliseconds(1)) +
                                     (a_first ? " a first" : " b first");
            ChoosingEnd& first = a_first ? pair.a : pair.b;
            ChoosingEnd& second = a_first ? pair.b : pair.a;
            first.transport_up(pair.now);
            // The second one's end of the pipe holds what the first one writes.
            for (const Instant start = pair.now; pair.now < start + delay;) {
              while (first.write(1 << 20, pair.now)) {
              }
              const auto next = first.selector->deadline();
              pair.now = next ? std::min(std::max(*next, pair.now + Duration(1)), start + delay)
                              : start + delay;
              first.tick(pair.now);
            }
            second.transport_up(pair.now);
            pair.run_for(seconds(30));
            ASSERT_FALSE(testing::Test::HasFailure()) << what;
            if (never) {
              EXPECT_NE(pair.a.protocol() + pair.b.protocol(), 2u);
              continue;
            }
            EXPECT_EQ(pair.a.protocol(), expected) << what;
            EXPECT_EQ(pair.b.protocol(), expected) << what;
            for (ChoosingEnd* end : {&pair.a, &pair.b}) {
              end->takes_at_once = true;
            }
            expect_traffic(pair, 1000);
            ASSERT_FALSE(testing::Test::HasFailure()) << what;
          }
        }
      }
    }
  }
}

TEST(ProtocolSelector, TwoNewEndsNeverSpeakTheOldProtocolWhenBothAreThere) {
  for (const Stale& stale : stale_bytes()) {
    ChoosingPair pair(kAuto, kAuto);
    pair.a.out = pair.b.out = stale.bytes;
    pair.connect();
    EXPECT_EQ(pair.a.ups, std::vector<unsigned>{2}) << stale.name;
    EXPECT_EQ(pair.b.ups, std::vector<unsigned>{2}) << stale.name;
    EXPECT_EQ(pair.now, Instant(seconds(1))) << "and it took no time";
  }
}

TEST(ProtocolSelector, OldPeerIsSpokenToAfterTheGraceAndItsPacketsAreKept) {
  ChoosingEnd end(config_with(1), kAuto);
  Instant now = seconds(1);
  end.transport_up(now);
  end.read(join({v1_init(5, "s1"), v1_init(6, "s2")}), now);
  EXPECT_TRUE(end.selector->choosing());
  EXPECT_EQ(end.talks.size(), 0u);
  EXPECT_EQ(*end.selector->deadline(), now) << "the greeting is due";
  end.write(1 << 20, now);
  now += kGrace - milliseconds(1);
  end.tick(now);
  EXPECT_TRUE(end.selector->choosing());
  now += milliseconds(1);
  end.tick(now);
  EXPECT_EQ(end.protocol(), 1u);
  EXPECT_TRUE(end.is_open(1) && end.is_open(2));
  EXPECT_NE(end.selector->description().find("sent an old packet"), std::string_view::npos);
  // From now on nothing waits.
  end.read(v1_init(7, "s3"), now);
  EXPECT_TRUE(end.is_open(3));
}

TEST(ProtocolSelector, SilentPeerIsTakenForAnOldOneAfterTheGrace) {
  ChoosingEnd end(config_with(1), kAuto);
  end.transport_up(seconds(1));
  EXPECT_FALSE(end.open(1)) << "not before it is known";
  end.tick(seconds(1) + kGrace);
  EXPECT_EQ(end.protocol(), 1u);
  EXPECT_NE(end.selector->description().find("not greeted"), std::string_view::npos);
  EXPECT_TRUE(end.open(1));
}

constexpr size_t kWaiting = 100;  // clients; each is a packet

// Of an end whose link came up a grace ago: it takes silence for the old protocol, and writes.
void choose_by_silence(ChoosingEnd& end, Instant now) {
  end.tick(now);
  ASSERT_EQ(end.protocol(), 1u);
  for (uint64_t id = 1; id <= kWaiting; ++id) ASSERT_TRUE(end.open(id));
  while (end.write(16 * 1024, now)) continue;
  EXPECT_LT(end.out.size(), 64 * kV1PacketSize);
  EXPECT_GT(end.out.size(), 50 * kV1PacketSize);
}

// The other end does not read for longer than the grace, and many clients wait: what is written in
// version 1 meanwhile must leave it room for the next greeting.
TEST(ProtocolSelector, WhoChoseTheOldProtocolBySilenceIsFoundByAnEndThatReadsLate) {
  ChoosingPair pair(kAuto, kAuto);
  pair.a.transport_up(pair.now);
  // The rest of a packet of an earlier life is no sign of the other end.
  pair.a.read(Bytes(500, std::byte{7}), pair.now);
  pair.now += kGrace;
  choose_by_silence(pair.a, pair.now);
  pair.b.transport_up(pair.now);
  pair.run_for(kGrace / 2);
  EXPECT_EQ(pair.a.protocol(), 2u);
  EXPECT_EQ(pair.b.ups, std::vector<unsigned>{2});
}

// An old peer says nothing to clients of a service that it does not have.
TEST(ProtocolSelector, APeerThatAnswersNothingIsToldOfAllClientsInTheEnd) {
  ChoosingEnd end(config_with(1), kAuto);
  Instant now = seconds(1);
  end.transport_up(now);
  now += kGrace;
  choose_by_silence(end, now);
  const Instant chosen_at = now;
  while (end.out.size() < kWaiting * kV1PacketSize) {
    ASSERT_LE(now, chosen_at + seconds(2));
    now = *end.selector->deadline();
    end.tick(now);
    while (end.write(16 * 1024, now)) continue;
  }
  EXPECT_EQ(now, chosen_at + seconds(2));
}

TEST(ProtocolSelector, APeerThatAnswersIsToldOfAllClientsAtOnce) {
  ChoosingEnd end(config_with(1), kAuto);
  Instant now = seconds(1);
  end.transport_up(now);
  now += kGrace;
  choose_by_silence(end, now);
  end.read(v1_init(7, "s900"), now);
  while (end.write(16 * 1024, now)) continue;
  EXPECT_GE(end.out.size(), kWaiting * kV1PacketSize);
}

// Two greetings, one after the other, and as long as any link has for the rest.
TEST(ProtocolSelector, GraceOfASerialLineFollowsItsSpeed) {
  EXPECT_EQ(grace_on_line(0), milliseconds(500));
  EXPECT_EQ(grace_on_line(115'200), kGrace + milliseconds(181) + microseconds(250));
  EXPECT_EQ(grace_on_line(1200), kGrace + milliseconds(17'400));
  EXPECT_LT(grace_on_line(115'200), grace_on_line(0)) << "the slowest that needs no telling";
}

TEST(ProtocolSelector, WhatIsKeptIsBounded) {
  ChoosingEnd end(config_with(1), kAuto);
  Instant now = seconds(1);
  end.transport_up(now);
  end.checks_content = false;
  while (end.selector->wants_input(now)) {
    end.read(v1_data(), now);
    ASSERT_LT(end.inbox.size(), 100'000u);
  }
  EXPECT_GT(end.inbox.size(), 60'000u);
  now += kGrace;
  end.tick(now);
  EXPECT_TRUE(end.selector->wants_input(now));
  EXPECT_LT(end.inbox.size(), kV1PacketSize);
}

// What is kept grows with every read, up to 64 KiB, and the other end chooses how small the reads
// are: searched from the start for each, they would cost the square of that.
TEST(ProtocolSelector, WhatIsKeptIsNotSearchedAgain) {
  constexpr size_t kBytes = 20'000;
  ChoosingEnd end(config_with(1), kAuto);
  end.transport_up(seconds(1));
  Bytes stream = v1_init();
  while (stream.size() < kBytes) {
    const Bytes more = v1_data();
    stream.insert(stream.end(), more.begin(), more.end());
  }
  for (const std::byte& byte : stream) end.read({&byte, 1}, seconds(1));
  EXPECT_TRUE(end.selector->choosing());
  EXPECT_GE(end.selector->bytes_searched(), stream.size());
  // Of the first packet, until it is whole, all of it; of the rest the beginning of a greeting.
  const uint64_t first = uint64_t{kV1PacketSize} * kV1PacketSize;
  EXPECT_LE(end.selector->bytes_searched(), 2 * first + 64 * stream.size());
  // A greeting in pieces behind it is found all the same.
  for (const std::byte& byte : stale_hello()) end.read({&byte, 1}, seconds(1));
  for (const std::byte& byte : v1_init()) end.read({&byte, 1}, seconds(1));
  end.tick(seconds(1) + kGrace);
  EXPECT_EQ(end.protocol(), 1u);
  EXPECT_TRUE(end.is_open(900));
}

TEST(ProtocolSelector, GarbageIsNotKept) {
  ChoosingEnd end(config_with(1), kAuto);
  const Instant now = seconds(1);
  end.transport_up(now);
  for (int i = 0; i < 1000; ++i) end.read(frames(), now);
  EXPECT_TRUE(end.selector->wants_input(now));
  EXPECT_LE(end.most_kept, 3000 + kV1SearchKeeps);
}

TEST(ProtocolSelector, ForcedOldNeverGreetsAndForcedNewNeverGivesIn) {
  ChoosingEnd old(config_with(1), kV1);
  old.transport_up(seconds(1));
  EXPECT_FALSE(old.selector->wants_to_write(seconds(100)));
  old.read(stale_hello(), seconds(2));
  EXPECT_EQ(old.protocol(), 1u);
  ChoosingEnd fresh(config_with(1), kV2);
  fresh.transport_up(seconds(1));
  fresh.read(join({v1_init(), v1_init()}), seconds(1));
  fresh.tick(seconds(1000));
  EXPECT_EQ(fresh.protocol(), 0u);
  EXPECT_FALSE(fresh.selector->choosing()) << "clients are refused, not held";
}

TEST(ProtocolSelector, ItsOwnGreetingSentBackIsNoNews) {
  ChoosingEnd end(config_with(1), kAuto);
  Instant now = seconds(1);
  end.transport_up(now);
  for (int i = 0; i < 200; ++i) {
    while (end.write(1 << 20, now)) {
    }
    const Bytes echoed = std::exchange(end.out, {});
    end.read(echoed, now);
    now += milliseconds(50);
    end.tick(now);
  }
  EXPECT_EQ(end.ups, std::vector<unsigned>{1});
  EXPECT_TRUE(end.downs.empty());
}

TEST(ProtocolSelector, GreetingInVersionOneWinsAndVersionTwoComesUpAtOnce) {
  ChoosingPair pair(kV1, kAuto);
  pair.connect();
  pair.run_for(kGrace);
  ASSERT_EQ(pair.b.protocol(), 1u);
  pair.b.open(1);
  pair.settle();
  const uint64_t lost = 1;
  ASSERT_TRUE(pair.a.is_open(lost));
  // The old end is replaced behind a device that hides it, in mid-packet.
  Bytes torn = v1_data();
  torn.resize(700);
  pair.a = ChoosingEnd(config_with(77), kAuto);
  pair.a.out = torn;
  pair.a.transport_up(pair.now);
  pair.settle();
  EXPECT_EQ(pair.b.downs, std::vector<Fault>{Fault::kUpgraded});
  EXPECT_NE(pair.b.at(lost).fate, Fate::kOpen);
  EXPECT_EQ(pair.a.protocol(), 2u);
  EXPECT_EQ(pair.b.protocol(), 2u);
  expect_traffic(pair, 10);
}

TEST(ProtocolSelector, UpgradedAndDowngradedTenTimesBehindADeviceThatHidesIt) {
  ChoosingPair pair(kAuto, kAuto);
  pair.connect(feature::kCommitTrailer);
  uint64_t secret = 100;
  for (int round = 0; round < 10; ++round) {
    for (const ProtocolMode mode : {kV1, kAuto}) {
      ASSERT_EQ(pair.b.protocol(), mode == kV1 ? 2u : 1u);
      pair.a = ChoosingEnd(config_with(++secret), mode);
      pair.a.transport_up(pair.now, feature::kCommitTrailer);
      if (mode == kV1) {
        pair.a.open(secret * 10);  // an old end is noticed once it speaks
      }
      pair.run_for(seconds(3));
      EXPECT_EQ(pair.a.protocol(), mode == kV1 ? 1u : 2u) << round;
      EXPECT_EQ(pair.b.protocol(), mode == kV1 ? 1u : 2u) << round;
      if (mode == kV1) {
        EXPECT_TRUE(pair.b.is_open(secret * 10)) << "what it asked for was kept";
      }
      expect_traffic(pair, secret * 1000);
      ASSERT_FALSE(testing::Test::HasFailure()) << round;
    }
  }
}

TEST(ProtocolSelector, EndsThatMissedEachOthersGreetingsFindEachOther) {
  ChoosingPair pair(kAuto, kAuto);
  pair.a.transport_up(pair.now);
  pair.b.transport_up(pair.now);
  for (int i = 0; i < 100; ++i) {  // a line that is down for ten seconds
    for (ChoosingEnd* end : {&pair.a, &pair.b}) {
      end->tick(pair.now);
      while (end->write(1 << 20, pair.now)) {
      }
      end->out.clear();
    }
    pair.now += milliseconds(100);
  }
  EXPECT_EQ(pair.a.protocol(), 1u);
  EXPECT_EQ(pair.b.protocol(), 1u);
  pair.run_for(seconds(11));
  EXPECT_EQ(pair.a.protocol(), 2u);
  EXPECT_EQ(pair.b.protocol(), 2u);
}

TEST(ProtocolSelector, ChosenAnewAfterEveryReconnect) {
  ChoosingPair pair(kAuto, kAuto);
  for (int round = 0; round < 6; ++round) {
    const ProtocolMode mode = round % 2 == 0 ? kV1 : kAuto;
    pair.drop_link();
    pair.a.out.clear();
    pair.b.out.clear();
    pair.a = ChoosingEnd(config_with(50 + static_cast<uint64_t>(round)), mode);
    pair.connect();
    pair.run_for(kGrace);
    EXPECT_EQ(pair.b.protocol(), mode == kV1 ? 1u : 2u);
    expect_traffic(pair, 100 * static_cast<uint64_t>(round + 1));
  }
}

TEST(ProtocolSelector, GreetingOfNoCommonVersionDoesNotWin) {
  Hello hello;
  hello.version_min = hello.version_max = 9;
  hello.epoch = 5;
  hello.max_streams = 16;
  hello.initial_window = 4096;
  hello.max_frame = 4096;
  const Bytes bytes = hello_bytes(hello);
  ChoosingEnd end(config_with(1), kAuto);
  end.transport_up(seconds(1));
  end.read(bytes, seconds(1));
  end.tick(seconds(1) + kGrace);
  EXPECT_EQ(end.protocol(), 1u);
  end.read(bytes, seconds(2));
  EXPECT_EQ(end.protocol(), 1u);
}

TEST(ProtocolSelector, KeysOfOneProtocolMeanNothingToTheOther) {
  ChoosingPair pair(kV1, kAuto);
  pair.connect();
  pair.run_for(kGrace);
  pair.b.open(1);
  pair.settle();
  const StreamKey key = pair.b.at(1).key;
  pair.a = ChoosingEnd(config_with(77), kAuto);
  pair.a.transport_up(pair.now);
  pair.settle();
  ASSERT_EQ(pair.b.protocol(), 2u);
  pair.b.open(2);
  EXPECT_EQ(pair.b.selector->session().request_credit(key), 0u);
  EXPECT_FALSE(pair.b.at(2).key == key);
}

}  // namespace
}  // namespace virtproxy::test
