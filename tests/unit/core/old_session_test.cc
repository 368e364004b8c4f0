// Version 1: the life of streams, and every hostile thing its peer can say.
#include <gtest/gtest.h>

#include "tests/unit/core/old_pair.h"

namespace virtproxy::test {
namespace {

class OldPairTest : public testing::Test {
 protected:
  void SetUp() override { pair.connect(); }
  void expect_nothing_left() {
    for (ChoosingEnd* end : {&pair.a, &pair.b}) {
      const Session::Figures figures = end->choice->figures();
      EXPECT_EQ(figures.streams, 0u);
      EXPECT_EQ(figures.held, 0u);
      EXPECT_EQ(figures.queued, 0u);
    }
  }
  ChoosingPair pair;
};

TEST_F(OldPairTest, IsUpAtOnceAndSaysNothing) {
  EXPECT_EQ(pair.a.ups, std::vector<unsigned>{1});
  EXPECT_FALSE(pair.a.choice->wants_to_write(pair.now));
  EXPECT_FALSE(pair.a.choice->deadline());
}

TEST_F(OldPairTest, NothingMayBeSentBeforeTheAck) {
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

TEST_F(OldPairTest, BytesGoBothWaysWhoeverOpened) {
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

TEST_F(OldPairTest, PacketsAreWholeHoweverSmallTheBatch) {
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.a.queue(id, 5000);
  while (pair.a.write(1, pair.now)) ASSERT_EQ(pair.a.out.size() % kOldPacketSize, 0u);
  EXPECT_EQ(pair.a.out.size(), 5 * kOldPacketSize);
}

TEST_F(OldPairTest, RefusalReachesTheClient) {
  pair.b.refuses_with = Fault::kUnknownService;
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  EXPECT_EQ(pair.a.at(id).fate, Fate::kResetByPeer);
  EXPECT_EQ(pair.a.at(id).fault, Fault::kRefused);
  expect_nothing_left();
}

TEST_F(OldPairTest, ServiceThatAnswersAndEndsIsClosedAtOnceWithAllItSaid) {
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

TEST_F(OldPairTest, ClientThatAskedAndEndedGetsItsAnswer) {
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.a.queue(id, 100);
  pair.a.end(id);
  pair.run_for(OldSession::kAnswerTime - milliseconds(1));
  ASSERT_TRUE(pair.b.is_open(id));
  for (int i = 0; i < 5; ++i) {  // slowly
    pair.b.queue(id, 1000);
    pair.run_for(OldSession::kAnswerTime - milliseconds(1));
  }
  EXPECT_EQ(pair.a.at(id).received, 5000u);
  ASSERT_TRUE(pair.a.is_open(id));
  pair.run_for(milliseconds(2));
  EXPECT_EQ(pair.a.at(id).fate, Fate::kClosed);
  EXPECT_TRUE(pair.b.at(id).end_seen) << "what waits for the end of an upload sees it";
  expect_nothing_left();
}

TEST_F(OldPairTest, ClientThatHasItsAnswerAndEndsIsGoneSoon) {
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.a.queue(id, 100);
  pair.settle();
  pair.b.queue(id, 100);
  pair.settle();
  pair.a.end(id);
  pair.run_for(OldSession::kQuietTime - milliseconds(1));
  EXPECT_TRUE(pair.a.is_open(id));
  pair.run_for(milliseconds(1));
  EXPECT_EQ(pair.b.at(id).fate, Fate::kClosed);
  expect_nothing_left();
}

TEST_F(OldPairTest, CloseDeliversWhatWasReceivedBefore) {
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

TEST_F(OldPairTest, BothCloseAtOnce) {
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.a.reset(id);
  pair.b.reset(id);
  pair.settle();
  expect_nothing_left();
}

TEST_F(OldPairTest, ClientThatLeavesBeforeTheAckIsClosedByIt) {
  pair.b.accepts_at_once = false;
  const uint64_t id = *pair.a.open(1);
  pair.settle();
  pair.a.reset(id);
  pair.settle();
  ASSERT_TRUE(pair.b.is_open(id)) << "no number to close by is known yet";
  pair.b.accept(id);
  pair.settle();
  EXPECT_EQ(pair.b.at(id).fate, Fate::kClosed);
  EXPECT_TRUE(pair.a.saw(Oddity::kUnknownAck));
  expect_nothing_left();
}

TEST_F(OldPairTest, AckThatNeverComesRefusesTheClient) {
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

TEST_F(OldPairTest, GoingAwayRefusesNewStreamsAndKeepsOldOnes) {
  const uint64_t old = *pair.a.open(1);
  pair.settle();
  pair.b.choice->go_away();
  const uint64_t late = *pair.a.open(2);
  pair.a.queue(old, 100);
  pair.settle();
  EXPECT_EQ(pair.b.at(old).received, 100u);
  EXPECT_EQ(pair.a.at(late).fate, Fate::kResetByPeer);
}

TEST_F(OldPairTest, LostLinkEndsEverythingAndTheNextSessionIsClean) {
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

TEST_F(OldPairTest, StreamsShareTheChannelAndClassesAreKept) {
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

TEST(OldNumbers, AreLargeUniqueAndNotUsedAgain) {
  for (const uint64_t secret : {0ull, 1ull, 0xffffffffffffffffull, 0x123456789abcdefull}) {
    ChoosingEnd end(config_with(secret), ProtocolMode::kOld);
    end.link_up(seconds(1));
    std::set<int32_t> seen;
    for (uint64_t id = 0; id < 3000; ++id) {
      end.open(id);
      end.write(1 << 20, seconds(1));
      ASSERT_EQ(end.out.size(), kOldPacketSize);
      const int32_t number = decode_old_head(end.out.data()).control_client();
      EXPECT_GE(number, 1'000'000);
      ASSERT_TRUE(seen.insert(number).second);
      end.out.clear();
      if (id % 3 != 0) end.reset(id);
    }
  }
}

TEST(OldNumbers, StartSomewhereElseInEveryLife) {
  std::set<int32_t> first;
  for (uint64_t secret = 1; secret <= 50; ++secret) {
    ChoosingEnd end(config_with(secret * 0x1234567), ProtocolMode::kOld);
    end.link_up(seconds(1));
    end.open(1);
    end.write(1 << 20, seconds(1));
    first.insert(decode_old_head(end.out.data()).control_client());
  }
  EXPECT_EQ(first.size(), 50u);
}

// One session, and a peer whose every packet the test writes.
class OldPuppetTest : public testing::Test {
 protected:
  void SetUp() override {
    end.link_up(now);
    end.checks_content = false;
  }
  void say(const Bytes& bytes) { end.read(bytes, now); }
  std::vector<Bytes> hear() {
    while (end.write(1 << 20, now)) {
    }
    std::vector<Bytes> packets;
    for (size_t at = 0; at < end.out.size(); at += kOldPacketSize) {
      packets.emplace_back(end.out.begin() + static_cast<ptrdiff_t>(at),
                           end.out.begin() + static_cast<ptrdiff_t>(at + kOldPacketSize));
    }
    end.out.clear();
    return packets;
  }
  static Bytes control(OldMessage message, int32_t client, int32_t server) {
    Bytes bytes(kOldPacketSize);
    encode_old_control(message, client, server, bytes.data());
    return bytes;
  }
  static Bytes init(int32_t client, std::string_view service) {
    Bytes bytes(kOldPacketSize);
    encode_old_init(client, service, bytes.data());
    return bytes;
  }
  static Bytes data(OldType type, int32_t client, int32_t server, size_t size, int32_t bytes) {
    Bytes packet(kOldPacketSize);
    encode_old_data_head(type, client, server, static_cast<uint32_t>(bytes), packet.data());
    encode_old_tail({packet.data() + kOldDataHead + size, old_tail_size(uint32_t(size))});
    return packet;
  }
  static Bytes data(OldType type, int32_t client, int32_t server, size_t size = 100) {
    return data(type, client, server, size, static_cast<int32_t>(size));
  }
  // A client of ours, acknowledged with the peer's number `server`; our number is returned.
  int32_t open_client(uint64_t id, int32_t server) {
    end.open(id);
    const int32_t number = decode_old_head(hear().at(0).data()).control_client();
    say(control(OldMessage::kAck, number, server));
    return number;
  }
  // A service of ours for the peer's client; our number is returned.
  int32_t open_service(uint64_t id, int32_t client) {
    say(init(client, "s" + std::to_string(id)));
    const auto heard = hear();
    EXPECT_EQ(heard.size(), 1u) << "the ACK and nothing else";
    return decode_old_head(heard.at(0).data()).control_server();
  }
  void expect_heard(std::vector<Bytes> expected) { EXPECT_EQ(hear(), expected); }

  ChoosingEnd end{config_with(7), ProtocolMode::kOld};
  Instant now = seconds(1);
};

TEST_F(OldPuppetTest, AckIsSaidOnlyOnceTheServiceIsThere) {
  end.accepts_at_once = false;
  say(init(5, "s1"));
  expect_heard({});
  end.accept(1);
  const auto heard = hear();
  ASSERT_EQ(heard.size(), 1u);
  const OldHead head = decode_old_head(heard[0].data());
  EXPECT_EQ(head.message(), 2u);
  EXPECT_EQ(head.control_client(), 5);
  EXPECT_GE(head.control_server(), 1'000'000);
}

TEST_F(OldPuppetTest, RefusalIsCloseOfTheClientAndNeverAnAck) {
  end.refuses_with = Fault::kRefused;
  say(init(5, "s1"));
  expect_heard({control(OldMessage::kClose, 5, -1)});
}

TEST_F(OldPuppetTest, AckOfZeroOrLessRefusesTheClient) {
  for (const int32_t server : {-1, 0, INT32_MIN}) {
    end.open(1);
    const int32_t number = decode_old_head(hear().at(0).data()).control_client();
    say(control(OldMessage::kAck, number, server));
    EXPECT_EQ(end.at(1).fault, Fault::kRefused);
    expect_heard({});
  }
}

TEST_F(OldPuppetTest, SecondAckIsIgnoredAndAnotherServerIsClosed) {
  const int32_t number = open_client(1, 44);
  say(control(OldMessage::kAck, number, 44));
  expect_heard({});
  say(control(OldMessage::kAck, number, 45));
  expect_heard({control(OldMessage::kClose, -1, 45)});
  say(control(OldMessage::kAck, number, -1));
  expect_heard({});
  EXPECT_TRUE(end.is_open(1));
  say(data(OldType::kServer, number, 44));
  EXPECT_EQ(end.at(1).received, 100u);
}

TEST_F(OldPuppetTest, AckForNobodyIsAnsweredWithClose) {
  say(control(OldMessage::kAck, 17, 44));
  expect_heard({control(OldMessage::kClose, -1, 44)});
  say(control(OldMessage::kAck, 17, -44));
  expect_heard({});
  // An INIT that has not been written was never heard: its number is a guess.
  const int32_t number = open_client(1, 3);
  end.open(2);
  say(control(OldMessage::kAck, number + 1, 45));
  EXPECT_TRUE(end.is_open(2));
  EXPECT_EQ(end.credit(2), 0u);
}

TEST_F(OldPuppetTest, NumbersNotGivenOutTouchNothing) {
  const int32_t client = open_client(1, 44);
  const int32_t server = open_service(2, 5);
  for (const int32_t number :
       {-1, 0, 5, 44, 999'999, client - 1, server + 1, INT32_MAX, INT32_MIN}) {
    say(data(OldType::kServer, number, 44));
    if (number > 0) say(data(OldType::kClient, 5, number));
    say(control(OldMessage::kClose, number, -1));
    say(control(OldMessage::kClose, -1, number));
  }
  // A client's number is no server's, and the other way round.
  say(data(OldType::kServer, server, 44));
  say(data(OldType::kClient, 5, client));
  say(control(OldMessage::kClose, server, -1));
  say(control(OldMessage::kClose, -1, client));
  expect_heard({});
  for (const uint64_t id : {1, 2}) {
    EXPECT_TRUE(end.is_open(id));
    EXPECT_EQ(end.at(id).received, 0u);
  }
  EXPECT_TRUE(end.saw(Oddity::kUnknownNumber));
}

TEST_F(OldPuppetTest, NumberOfBytesOutOfRangeClosesItsStreamAndNoOther) {
  open_client(2, 45);
  for (const int32_t bytes : {0, -1, 1025, INT32_MAX, INT32_MIN}) {
    const int32_t client = open_client(1, 44);
    say(data(OldType::kServer, client, 44, 100, bytes));
    EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer) << bytes;
    EXPECT_TRUE(end.is_open(2));
    EXPECT_EQ(end.at(1).received, 0u);
    expect_heard({control(OldMessage::kClose, -1, 44)});
    EXPECT_EQ(end.oddities.back(), Oddity::kBadBytes);
  }
}

TEST_F(OldPuppetTest, UnknownTypesAndMessagesAreDropped) {
  const int32_t client = open_client(1, 44);
  for (const uint32_t type : {0u, 4u, 0x10u, 0xffffffffu}) {
    Bytes packet = data(OldType::kServer, client, 44);
    store_le(packet.data(), type);
    say(packet);
    EXPECT_EQ(end.oddities.back(), Oddity::kUnknownType);
  }
  for (const uint32_t message : {0u, 4u, 0x32585056u, 0xffffffffu}) {
    Bytes packet = control(OldMessage::kClose, client, -1);
    store_le(packet.data() + 4, message);
    say(packet);
    EXPECT_EQ(end.oddities.back(), Oddity::kUnknownMessage);
  }
  EXPECT_TRUE(end.is_open(1));
  expect_heard({});
}

TEST_F(OldPuppetTest, MalformedInitsAreDroppedOrRefused) {
  say(init(-1, "s1"));
  EXPECT_EQ(end.oddities.back(), Oddity::kBadClientNumber);
  expect_heard({});
  Bytes packet = init(5, std::string(31, 'n'));
  packet[43] = std::byte{'n'};
  say(packet);
  EXPECT_EQ(end.oddities.back(), Oddity::kBadServiceName);
  expect_heard({control(OldMessage::kClose, 5, -1)});
  say(init(5, ""));
  EXPECT_EQ(end.oddities.back(), Oddity::kBadServiceName);
  expect_heard({control(OldMessage::kClose, 5, -1)});
}

TEST_F(OldPuppetTest, ClientNumberGivenOutAgainGoesToTheNewClient) {
  const int32_t first = open_service(1, 5);
  const int32_t second = open_service(2, 5);
  EXPECT_NE(first, second);
  EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.is_open(2));
  EXPECT_TRUE(end.saw(Oddity::kNumberAgain));
  expect_heard({});  // CLOSE(5, -1) would close the new one
  say(data(OldType::kClient, 5, second));
  EXPECT_EQ(end.at(2).received, 100u);
}

// A peer's numbers are descriptors of one process: a line that hides its restart shows it like
// that.
TEST_F(OldPuppetTest, ServerNumberGivenOutAgainGoesToTheNewStream) {
  const int32_t first = open_client(1, 44);
  const int32_t second = open_client(2, 44);
  EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.is_open(2));
  EXPECT_TRUE(end.saw(Oddity::kNumberAgain));
  expect_heard({});  // CLOSE(-1, 44) would close the new one
  say(data(OldType::kServer, first, 44));
  say(data(OldType::kServer, second, 44));
  EXPECT_EQ(end.at(2).received, 100u);
  // That number is the second one's, whatever became of the first.
  open_client(3, 44);
  EXPECT_EQ(end.at(2).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.is_open(3));
}

TEST_F(OldPuppetTest, ClientNumberThatWasAServersEndsThatStreamAndTheOtherWayRound) {
  open_client(1, 9);
  const int32_t server = open_service(2, 9);
  EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.is_open(2));
  say(data(OldType::kClient, 9, server));
  EXPECT_EQ(end.at(2).received, 100u);
  open_client(3, 9);
  EXPECT_EQ(end.at(2).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.is_open(3));
  EXPECT_EQ(std::count(end.oddities.begin(), end.oddities.end(), Oddity::kNumberAgain), 2);
  expect_heard({});
}

TEST_F(OldPuppetTest, AckThatLeadsNowhereStillEndsTheEarlierBearerOfItsNumber) {
  const int32_t number = open_client(1, 9);
  open_client(2, 10);
  say(control(OldMessage::kAck, 17, 9));
  EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer);
  expect_heard({control(OldMessage::kClose, -1, 9)});
  // The number is free again.
  open_client(3, 9);
  say(control(OldMessage::kAck, number + 1, 9));
  EXPECT_EQ(end.at(3).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.is_open(2));
  expect_heard({control(OldMessage::kClose, -1, 9)});
}

TEST_F(OldPuppetTest, ServerNumberOfAStreamThatIsOverIsFree) {
  const int32_t first = open_client(1, 44);
  say(control(OldMessage::kClose, first, -1));
  open_client(2, 44);
  EXPECT_EQ(end.at(1).fate, Fate::kClosed);
  EXPECT_TRUE(end.is_open(2));
  EXPECT_TRUE(end.oddities.empty());
}

TEST_F(OldPuppetTest, DataWrittenBeforeTheAckWasReadClosesItsStream) {
  const int32_t server = open_service(1, 5);
  say(data(OldType::kClient, 5, server - 1));  // late, of nobody
  EXPECT_TRUE(end.is_open(1));
  for (const int32_t unknown : {-1, 0, INT32_MIN}) {
    SCOPED_TRACE(unknown);
    open_service(2, 6);
    say(data(OldType::kClient, 6, unknown));
    EXPECT_EQ(end.at(2).fate, Fate::kResetByPeer) << "or it would go on with a hole";
    EXPECT_EQ(end.oddities.back(), Oddity::kDataBeforeAck);
    expect_heard({control(OldMessage::kClose, 6, -1)});
  }
  EXPECT_TRUE(end.is_open(1));
}

TEST_F(OldPuppetTest, DataBeforeTheAckClosesItsStream) {
  end.accepts_at_once = false;
  say(init(5, "s1"));
  say(data(OldType::kClient, 5, -1));
  EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.saw(Oddity::kDataBeforeAck));
  expect_heard({control(OldMessage::kClose, 5, -1)});
}

TEST_F(OldPuppetTest, CloseThatNamesBothClosesTheOneThatIsOurs) {
  const int32_t client = open_client(1, 44);
  const int32_t server = open_service(2, 5);
  say(control(OldMessage::kClose, 5, server));
  EXPECT_EQ(end.at(2).fate, Fate::kClosed);
  EXPECT_TRUE(end.is_open(1));
  const int32_t again = open_service(3, 6);
  say(control(OldMessage::kClose, client, again));
  EXPECT_EQ(end.at(1).fate, Fate::kClosed) << "the client is looked at first";
  EXPECT_TRUE(end.is_open(3));
  expect_heard({});
}

TEST_F(OldPuppetTest, NothingIsSaidAfterClose) {
  const int32_t client = open_client(1, 44);
  end.queue(1, 5000);
  say(control(OldMessage::kClose, client, -1));
  expect_heard({});
  say(data(OldType::kServer, client, 44));
  EXPECT_EQ(end.at(1).received, 0u);
}

TEST_F(OldPuppetTest, StreamsAreLimitedAndSoAreRefusals) {
  SessionConfig config = config_with(3);
  config.limits.max_streams = 4;
  end = ChoosingEnd(config, ProtocolMode::kOld);
  end.link_up(now);
  for (int32_t client = 0; client < 1000; ++client) say(init(client, "s" + std::to_string(client)));
  EXPECT_EQ(end.choice->figures().streams, 4u);
  EXPECT_TRUE(end.saw(Oddity::kTooManyAnswers));
  const auto heard = hear();
  EXPECT_LE(heard.size(), 4u + 4u + 64u);
  EXPECT_GE(heard.size(), 64u);
}

// --- one stray byte -----------------------------------------------------------------------------

TEST_F(OldPuppetTest, StrayByteAtEveryOffsetCostsAtMostTheStreamItHit) {
  int survived = 0;
  for (size_t offset = 0; offset <= kOldPacketSize; ++offset) {
    end = ChoosingEnd(config_with(offset + 1), ProtocolMode::kOld);
    end.link_up(now);
    end.checks_content = false;
    const int32_t hit = open_client(1, 44);
    const int32_t other = open_client(2, 45);
    Bytes torn = data(OldType::kServer, hit, 44, 1000);
    torn.insert(torn.begin() + static_cast<ptrdiff_t>(offset), std::byte{0x42});
    say(torn);
    for (int i = 0; i < 3; ++i) say(data(OldType::kServer, other, 45, 1000));
    ASSERT_TRUE(end.saw(Oddity::kBytesSkipped)) << offset;
    say(control(OldMessage::kClose, other, -1));
    if (offset < 16) {
      // The head says no more whose bytes they were.
      EXPECT_EQ(end.at(1).received, offset == 0 ? 1000u : 0u) << "nothing was lost";
    } else if (offset < 1044) {
      EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer) << offset;
      EXPECT_EQ(end.at(2).received, 3000u) << offset;
      EXPECT_EQ(end.at(2).fate, Fate::kClosed) << offset;
    }
    // Never a hole: what was received is a whole number of packets, and all or a reset.
    EXPECT_TRUE(end.at(2).received == 3000 || end.at(2).fate == Fate::kResetByPeer) << offset;
    survived += end.at(2).received == 3000;
  }
  EXPECT_GT(survived, 1000);
}

TEST_F(OldPuppetTest, BytesThatAreMissingCloseEveryStream) {
  const int32_t one = open_client(1, 44);
  open_client(2, 45);
  Bytes bytes;
  for (int i = 0; i < 6; ++i) {
    const Bytes packet = data(OldType::kServer, one, 44, 1000);
    bytes.insert(bytes.end(), packet.begin(), packet.end());
  }
  bytes.erase(bytes.begin() + 500, bytes.begin() + 2600);
  say(bytes);
  EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer);
  EXPECT_EQ(end.at(2).fate, Fate::kResetByPeer) << "it may have been in what is gone";
  const auto heard = hear();
  EXPECT_EQ(heard.size(), 2u);
}

TEST_F(OldPuppetTest, InitIsHeardThroughAnyAmountOfGarbage) {
  Random random(9);
  for (uint64_t id = 1; id <= 200; ++id) {
    Bytes garbage(below(random, 6000));
    for (std::byte& b : garbage) b = static_cast<std::byte>(random());
    const Bytes packet = init(static_cast<int32_t>(id), "s" + std::to_string(id));
    garbage.insert(garbage.end(), packet.begin(), packet.end());
    for (size_t at = 0; at < garbage.size();) {
      const size_t size = std::min<size_t>(garbage.size() - at, 1 + below(random, 2000));
      say(Bytes(garbage.begin() + static_cast<ptrdiff_t>(at),
                garbage.begin() + static_cast<ptrdiff_t>(at + size)));
      at += size;
    }
    ASSERT_TRUE(end.is_open(id)) << id;
    ASSERT_TRUE(end.inbox.empty());
  }
  EXPECT_LE(end.most_kept, kOldSearchKeeps);
}

}  // namespace
}  // namespace virtproxy::test
