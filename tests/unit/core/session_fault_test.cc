// Every session fault, provoked by a frame written by hand; and what must not be one.
#include <gtest/gtest.h>

#include <utility>

#include "tests/unit/core/puppet.h"

namespace virtproxy::test {
namespace {

class FaultTest : public testing::Test {
 protected:
  void SetUp() override { puppet.establish(); }

  void expect(Fault fault, const Bytes& bytes) {
    puppet.say(bytes);
    EXPECT_EQ(puppet.fault(), fault) << fault_text(puppet.fault());
    EXPECT_EQ(puppet.session.up(), fault == Fault::kNone);
    EXPECT_EQ(puppet.session.stats().borrowed, 0u);
    EXPECT_TRUE(fault == Fault::kNone || puppet.session.stats().streams == 0);
  }
  Bytes frame(FrameType type, uint32_t stream, uint64_t argument, uint32_t length = 0,
              bool mine = true) {
    return puppet.frame({type, mine, stream, length, argument}, Bytes(length));
  }
  StreamKey peer_opens(uint32_t stream) {
    puppet.say(puppet.open(stream));
    return puppet.event(Event::Kind::kOpened)->stream;
  }
  uint32_t session_opens() {
    puppet.session.open("echo", Priority::kNormal, {});
    return puppet.hear()[0].stream;
  }

  const uint32_t one = stream_number(0, 1);
  Puppet puppet;
};

TEST_F(FaultTest, BadHeader) { expect(Fault::kBadHeader, Bytes(kHeaderSize, std::byte{0x77})); }

TEST_F(FaultTest, UnknownFrame) { expect(Fault::kUnknownFrame, frame(FrameType{0x1b}, 0, 0)); }
TEST_F(FaultTest, UnknownFrameThatTheSessionHasNoFeatureFor) {
  Puppet fresh;
  fresh.mine.supported &= ~feature::kReliableReset;
  fresh.establish();
  fresh.say(fresh.open(one));
  fresh.say(fresh.frame({FrameType::kResetAt, true, one, 0, 0}));
  EXPECT_EQ(fresh.fault(), Fault::kUnknownFrame);
}

TEST_F(FaultTest, BadLengthOfEveryType) {
  for (const FrameType type :
       {FrameType::kEnd, FrameType::kDone, FrameType::kReset, FrameType::kCredit, FrameType::kPing,
        FrameType::kPong, FrameType::kGoingAway, FrameType::kAck, FrameType::kResetAt}) {
    Puppet fresh;
    fresh.establish();
    fresh.say(fresh.frame({type, false, 0, 1, 0}));
    EXPECT_EQ(fresh.fault(), Fault::kBadLength);
  }
  for (const uint32_t length : {0u, 4u, protocol_limits::kMaxOpenPayload + 1, 0xffffffffu}) {
    Puppet fresh;
    fresh.establish();
    fresh.say(fresh.frame({FrameType::kOpen, true, one, length, 0}));
    EXPECT_EQ(fresh.fault(), Fault::kBadLength) << length;
  }
  for (const uint32_t length : {0u, 65537u, 0xffffffffu}) {
    Puppet fresh;
    fresh.establish();
    fresh.say(fresh.open(one));
    fresh.say(fresh.frame({FrameType::kData, true, one, length, 0}));
    EXPECT_EQ(fresh.fault(), Fault::kBadLength) << length;
  }
}

TEST_F(FaultTest, BadStreamIdOfASessionFrame) {
  expect(Fault::kBadStreamId, frame(FrameType::kPing, one, 0, 0, false));
}
TEST_F(FaultTest, BadStreamIdOfASessionFrameWithADirection) {
  expect(Fault::kBadStreamId, frame(FrameType::kPing, 0, 0));
}
TEST_F(FaultTest, BadStreamIdBeyondTheLimit) {
  expect(Fault::kBadStreamId, puppet.open(stream_number(1024, 1)));
}
TEST_F(FaultTest, BadStreamIdOfAWrongGeneration) {
  expect(Fault::kBadStreamId, puppet.open(stream_number(0, 2)));
}
TEST_F(FaultTest, BadStreamIdOfAnOpenInTheOtherNumberSpace) {
  const Bytes payload = Puppet::open_payload("echo");
  expect(Fault::kBadStreamId,
         puppet.frame({FrameType::kOpen, false, one, static_cast<uint32_t>(payload.size()), 0},
                      payload));
}

TEST_F(FaultTest, UnknownStreamForEveryFrameOfAStream) {
  for (const FrameType type : {FrameType::kData, FrameType::kEnd, FrameType::kDone,
                               FrameType::kReset, FrameType::kCredit, FrameType::kResetAt}) {
    for (const bool mine : {true, false}) {
      Puppet fresh;
      fresh.establish();
      const uint32_t length = type == FrameType::kData ? 10 : 0;
      fresh.say(fresh.frame({type, mine, one, length, 0}, Bytes(length)));
      EXPECT_EQ(fresh.fault(), Fault::kUnknownStream);
    }
  }
}
TEST_F(FaultTest, UnknownStreamWhoseOpenWasNotSentYet) {
  puppet.session.open("echo", Priority::kNormal, {});
  expect(Fault::kUnknownStream, frame(FrameType::kReset, one, 1, 0, false));
}
TEST_F(FaultTest, UnknownStreamThatIsOver) {
  const StreamKey key = peer_opens(one);
  Events events;
  puppet.session.reset(key, Fault::kRefused, events);
  puppet.hear();
  puppet.say(frame(FrameType::kReset, one, 1));
  EXPECT_EQ(puppet.session.stats().streams, 0u);
  expect(Fault::kNone, frame(FrameType::kReset, one, 1));
  expect(Fault::kUnknownStream, puppet.data(one, 0, 10));
}

TEST_F(FaultTest, UnknownStreamForWhatFollowsAResetAt) {
  for (const FrameType type : {FrameType::kData, FrameType::kEnd, FrameType::kDone,
                               FrameType::kReset, FrameType::kCredit, FrameType::kResetAt}) {
    Puppet fresh;
    fresh.establish();
    fresh.say(fresh.open(one));
    fresh.say(fresh.data(one, 0, 10));
    fresh.say(fresh.frame({FrameType::kResetAt, true, one, 0, 10}));
    EXPECT_EQ(fresh.fault(), Fault::kNone);
    EXPECT_TRUE(fresh.event(Event::Kind::kAborted));
    const uint32_t length = type == FrameType::kData ? 10 : 0;
    fresh.say(fresh.frame({type, true, one, length, 10}, Bytes(length)));
    EXPECT_EQ(fresh.fault(), Fault::kUnknownStream);
  }
}

TEST_F(FaultTest, BadOffsetOfAResetAt) {
  for (const uint64_t offset : {0u, 9u, 11u}) {
    Puppet fresh;
    fresh.establish();
    fresh.say(fresh.open(one));
    fresh.say(fresh.data(one, 0, 10));
    fresh.say(fresh.frame({FrameType::kResetAt, true, one, 0, offset}));
    EXPECT_EQ(fresh.fault(), Fault::kBadOffset) << offset;
  }
}

TEST_F(FaultTest, StreamInUse) {
  peer_opens(one);
  expect(Fault::kStreamInUse, puppet.open(one));
}

TEST_F(FaultTest, BadOpenForEverySenselessField) {
  const auto refused = [&](Bytes payload, uint64_t credit = 0) {
    Puppet fresh;
    fresh.establish();
    fresh.say(fresh.frame(
        {FrameType::kOpen, true, one, static_cast<uint32_t>(payload.size()), credit}, payload));
    return fresh.fault() == Fault::kBadOpen;
  };
  const Bytes good = Puppet::open_payload("echo", 3);
  EXPECT_FALSE(refused(good));
  Bytes bad = good;
  bad[0] = std::byte{3};
  EXPECT_TRUE(refused(bad)) << "priority";
  bad = good;
  bad[1] = std::byte{0};
  EXPECT_TRUE(refused(bad)) << "no service";
  bad = good;
  bad[1] = std::byte{32};
  EXPECT_TRUE(refused(bad)) << "long service";
  bad = good;
  bad[2] = std::byte{4};
  EXPECT_TRUE(refused(bad)) << "metadata beyond the payload";
  bad = good;
  bad[3] = std::byte{1};
  EXPECT_TRUE(refused(bad)) << "reserved byte";
  EXPECT_TRUE(refused(Puppet::open_payload("e", protocol_limits::kMaxMetadata + 1)))
      << "long metadata";
  EXPECT_FALSE(refused(Puppet::open_payload("e", protocol_limits::kMaxMetadata)));
  EXPECT_TRUE(refused(good, uint64_t{protocol_limits::kMaxWindow} + 1)) << "credit";
}

TEST_F(FaultTest, CreditExceeded) {
  peer_opens(one);
  expect(Fault::kNone, puppet.data(one, 0, 16'000));
  expect(Fault::kCreditExceeded, puppet.data(one, 16'000, 385));
}

TEST_F(FaultTest, CreditShrunk) {
  const uint32_t ours = session_opens();
  expect(Fault::kNone, frame(FrameType::kCredit, ours, 5000, 0, false));
  expect(Fault::kCreditShrunk, frame(FrameType::kCredit, ours, 4999, 0, false));
}
TEST_F(FaultTest, CreditShrunkCoversCreditThatOverflows) {
  for (const uint64_t limit :
       {uint64_t{protocol_limits::kMaxWindow} + 1, protocol_limits::kMaxOffset + 1, UINT64_MAX}) {
    Puppet fresh;
    fresh.establish();
    fresh.session.open("echo", Priority::kNormal, {});
    fresh.hear();
    fresh.say(fresh.frame({FrameType::kCredit, false, one, 0, limit}));
    EXPECT_EQ(fresh.fault(), Fault::kCreditShrunk) << limit;
  }
}

TEST_F(FaultTest, BadOffsetOfData) {
  peer_opens(one);
  puppet.say(puppet.data(one, 0, 10));
  expect(Fault::kBadOffset, puppet.data(one, 11, 10));
}
TEST_F(FaultTest, BadOffsetOfEnd) {
  peer_opens(one);
  puppet.say(puppet.data(one, 0, 10));
  expect(Fault::kBadOffset, frame(FrameType::kEnd, one, 9));
}
TEST_F(FaultTest, BadOffsetOfDoneBeforeTheEnd) {
  const uint32_t ours = session_opens();
  expect(Fault::kBadOffset, frame(FrameType::kDone, ours, 0, 0, false));
}
TEST_F(FaultTest, BadOffsetOfDoneBeforeAllWasSent) {
  const auto key = puppet.session.open("echo", Priority::kNormal, {});
  puppet.session.queue(*key, 10);
  puppet.session.end(*key);
  puppet.hear();
  expect(Fault::kBadOffset, frame(FrameType::kDone, one, 9, 0, false));
}
TEST_F(FaultTest, BadOffsetOfASecondDone) {
  const auto key = puppet.session.open("echo", Priority::kNormal, {});
  puppet.session.end(*key);
  puppet.hear();
  expect(Fault::kNone, frame(FrameType::kDone, one, 0, 0, false));
  expect(Fault::kBadOffset, frame(FrameType::kDone, one, 0, 0, false));
}

TEST_F(FaultTest, DataAfterEnd) {
  peer_opens(one);
  puppet.say(frame(FrameType::kEnd, one, 0));
  expect(Fault::kDataAfterEnd, puppet.data(one, 0, 1));
}
TEST_F(FaultTest, DataAfterEndCoversASecondEnd) {
  peer_opens(one);
  puppet.say(frame(FrameType::kEnd, one, 0));
  expect(Fault::kDataAfterEnd, frame(FrameType::kEnd, one, 0));
}

TEST_F(FaultTest, BadHelloBetweenFramesIsSeenAtItsFirstBytes) {
  expect(Fault::kBadHello, Bytes{std::byte{1}, std::byte{7}});
}
TEST_F(FaultTest, BadHelloWhoseCheckFails) {
  Bytes hello = hello_bytes(puppet.mine);
  hello[500] = std::byte{1};
  expect(Fault::kBadHello, hello);
}

TEST_F(FaultTest, FrameLostShowsInTheCountOfAPing) {
  expect(Fault::kNone, frame(FrameType::kPing, 0, 0, 0, false));
  ASSERT_EQ(puppet.hear()[0].type, FrameType::kPong);
  expect(Fault::kNone, puppet.open(one));
  puppet.frame({FrameType::kEnd, true, one, 0, 0});  // written, but lost
  expect(Fault::kFrameLost, frame(FrameType::kPing, 0, 3, 0, false));
}

TEST_F(FaultTest, BadAckOfBytesThatWereNeverSent) {
  session_opens();
  const uint64_t sent = kHeaderSize + 8;
  expect(Fault::kNone, frame(FrameType::kAck, 0, sent, 0, false));
  expect(Fault::kNone, frame(FrameType::kAck, 0, sent, 0, false));
  expect(Fault::kBadAck, frame(FrameType::kAck, 0, sent + 1, 0, false));
}
TEST_F(FaultTest, BadAckCoversOneThatShrinks) {
  session_opens();
  expect(Fault::kNone, frame(FrameType::kAck, 0, 20, 0, false));
  expect(Fault::kBadAck, frame(FrameType::kAck, 0, 19, 0, false));
}

TEST_F(FaultTest, PeerRestarted) {
  puppet.mine.epoch = 99;
  puppet.mine.echo = 0;
  expect(Fault::kPeerRestarted, hello_bytes(puppet.mine));
  puppet.hear();
  EXPECT_EQ(puppet.hellos.back().echo, 99u) << "the new life is answered without asking again";
}

TEST_F(FaultTest, LinkLost) {
  Events events;
  puppet.session.transport_down(events);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].fault, Fault::kTransportLost);
  puppet.session.transport_down(events);
  EXPECT_EQ(events.size(), 1u) << "it was down already";
}

TEST_F(FaultTest, BadTrailerForAChangedByteOrACutFrame) {
  for (const uint64_t feature : {feature::kChecksumTrailer, feature::kCommitTrailer}) {
    Puppet sealed(config_with(7, feature));
    sealed.trailer =
        feature == feature::kChecksumTrailer ? TrailerKind::kChecksum : TrailerKind::kCommit;
    sealed.establish();
    sealed.say(sealed.open(one));
    ASSERT_TRUE(sealed.event(Event::Kind::kOpened));
    Bytes bytes = sealed.data(one, 0, 100);
    bytes.erase(bytes.begin() + 50);
    bytes.push_back(std::byte{0});
    sealed.say(bytes);
    EXPECT_EQ(sealed.fault(), Fault::kBadTrailer);
  }
}

TEST_F(FaultTest, NothingOfTheAboveHarmsAHealthyExchange) {
  const StreamKey key = peer_opens(one);
  puppet.session.queue(key, 100);
  expect(Fault::kNone, puppet.data(one, 0, 100));
  puppet.session.consumed(key, 100);
  expect(Fault::kNone, frame(FrameType::kEnd, one, 100));
  puppet.session.delivered(key, puppet.events);
  puppet.session.end(key);
  EXPECT_TRUE(puppet.heard(FrameType::kDone, puppet.hear()));
  puppet.say(frame(FrameType::kDone, one, 100));
  EXPECT_TRUE(puppet.event(Event::Kind::kClosed));
  expect(Fault::kNone, frame(FrameType::kPong, 0, 77, 0, false));
  expect(Fault::kNone, frame(FrameType::kGoingAway, 0, 0, 0, false));
}

TEST(Ping, CountsFramesAndFindsALostTail) {
  Pair pair(config_with(1, feature::kChecksumTrailer));
  pair.connect();
  const uint64_t id = *pair.a.open();
  pair.settle();
  pair.run_for(seconds(20));
  EXPECT_TRUE(pair.b.downs.empty());
  pair.a.end(id);
  pair.a.write(1 << 20, pair.now);
  pair.a.out.clear();  // the END is lost, and nobody has anything else to say
  pair.run_for(seconds(3));
  ASSERT_EQ(pair.b.downs.size(), 1u);
  EXPECT_EQ(pair.b.downs[0], Fault::kFrameLost);
  EXPECT_EQ(pair.a.at(id).fate, Fate::kLost);
  pair.run_for(seconds(3));
  EXPECT_TRUE(pair.a.session.up() && pair.b.session.up());
}

// A session with checksums that is idle, and so counts its frames in a greeting.
struct IdlePuppet : Puppet {
  IdlePuppet() : Puppet(config_with(7, feature::kChecksumTrailer)) {
    trailer = TrailerKind::kChecksum;
    mine.supported = mine.wanted = feature::kChecksumTrailer;
    establish();
    mine.joined = true;
  }
  Bytes torn_greeting(size_t left) const {
    Bytes torn = hello_bytes(mine);
    torn.resize(left);
    return torn;
  }
  Bytes ping() { return frame({FrameType::kPing, false, 0, 0, 1}); }
};

// When a line loses the rest of a greeting, what follows must not be taken for that rest.
TEST(Ping, FindsTheLostRestOfAGreeting) {
  for (const size_t left : {size_t{16}, size_t{156}, kHelloSize - 60}) {
    IdlePuppet sealed;
    sealed.say(sealed.torn_greeting(left));
    EXPECT_EQ(sealed.fault(), Fault::kNone);
    sealed.say(sealed.ping());
    EXPECT_EQ(sealed.fault(), Fault::kFrameLost) << left;
  }
}

// The same loss where the transport delivers, in one piece, more than a greeting is long.
TEST(Ping, FindsTheLostRestOfAGreetingInOnePiece) {
  IdlePuppet sealed;
  Bytes torn = sealed.torn_greeting(156);
  const Bytes ping = sealed.ping();
  while (torn.size() < 2 * kHelloSize) torn.insert(torn.end(), ping.begin(), ping.end());
  sealed.say(torn);
  EXPECT_EQ(sealed.fault(), Fault::kFrameLost);
}

TEST(Ping, FindsALostFrameWhenItsSenderHasNoStreamLeft) {
  Pair pair(config_with(1, feature::kChecksumTrailer));
  pair.connect();
  const uint64_t id = *pair.a.open();
  pair.a.end(id);
  pair.settle();
  pair.b.end(id);
  pair.b.write(1 << 20, pair.now);
  pair.a.read(std::exchange(pair.b.out, {}), pair.now);
  pair.a.write(1 << 20, pair.now);
  pair.a.out.clear();  // the DONE is lost, after which the stream is over for its sender
  ASSERT_EQ(pair.a.session.stats().streams, 0u);
  ASSERT_EQ(pair.b.session.stats().streams, 1u);
  pair.run_for(seconds(3));
  ASSERT_EQ(pair.b.downs.size(), 1u);
  EXPECT_EQ(pair.b.downs[0], Fault::kFrameLost);
  EXPECT_EQ(pair.b.session.stats().streams, 0u);
}

TEST(Ping, FallsSilentWhenEverythingIsCounted) {
  Pair pair(config_with(1, feature::kChecksumTrailer));
  pair.connect();
  pair.a.reset(*pair.a.open());
  const uint64_t id = *pair.a.open();
  pair.settle();
  pair.a.reset(id);
  pair.run_for(seconds(5));
  pair.a.out.clear();
  pair.b.out.clear();
  EXPECT_FALSE(pair.a.session.deadline());
  EXPECT_FALSE(pair.b.session.deadline());
}

// An end of 2010 may have taken the peer's place: whatever has not its packets' length would leave
// it deaf for good.
TEST(Ping, CountsInAGreetingWhileNoStreamIsOpen) {
  Pair pair(config_with(1, feature::kChecksumTrailer));
  pair.connect();
  const uint64_t id = *pair.a.open();
  pair.settle();
  pair.a.reset(id);
  pair.settle();
  Bytes written;
  for (int i = 0; i < 10; ++i) {
    pair.now += seconds(1);
    pair.a.tick(pair.now);
    while (pair.a.write(1 << 20, pair.now)) {
    }
    written.insert(written.end(), pair.a.out.begin(), pair.a.out.end());
    pair.b.read(std::exchange(pair.a.out, {}), pair.now);
  }
  ASSERT_EQ(written.size(), kHelloSize);
  const auto hello = decode_hello(written.data());
  ASSERT_TRUE(hello);
  EXPECT_TRUE(hello->joined);
  EXPECT_GT(hello->frames, 0u);
  EXPECT_TRUE(pair.b.downs.empty());
  pair.a.session.go_away();
  EXPECT_FALSE(pair.a.write(1 << 20, pair.now)) << "nor does it say that it leaves";
}

TEST(Ping, FindsAGapInAFrameThatWouldOtherwiseWaitForEver) {
  for (const size_t lost : {1u, 30u, 5000u, 15'000u}) {
    Pair pair(config_with(1, feature::kChecksumTrailer));
    pair.connect();
    const uint64_t id = *pair.a.open();
    pair.settle();
    pair.a.queue(id, 16'000);
    pair.a.write(1 << 20, pair.now);
    pair.a.out.erase(pair.a.out.begin() + 500,
                     pair.a.out.begin() + 500 + static_cast<ptrdiff_t>(lost));
    pair.run_for(seconds(5));
    ASSERT_FALSE(pair.b.downs.empty()) << lost;
    EXPECT_EQ(pair.a.at(id).fate, Fate::kLost);
    EXPECT_TRUE(pair.a.session.up() && pair.b.session.up());
  }
}

}  // namespace
}  // namespace virtproxy::test
