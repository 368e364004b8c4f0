// Version 1: every hostile thing that its peer can say, packet by packet.
#include <gtest/gtest.h>

#include "tests/unit/core/old_puppet.h"

namespace virtproxy::test {
namespace {

TEST_F(V1PuppetTest, AckIsSaidOnlyOnceTheServiceIsThere) {
  end.accepts_at_once = false;
  say(init(5, "s1"));
  expect_heard({});
  end.accept(1);
  const auto heard = hear();
  ASSERT_EQ(heard.size(), 1u);
  const V1Head head = decode_v1_head(heard[0].data());
  EXPECT_EQ(head.message(), 2u);
  EXPECT_EQ(head.control_client(), 5);
  EXPECT_GE(head.control_server(), 1'000'000);
}

TEST_F(V1PuppetTest, RefusalIsCloseOfTheClientAndNeverAnAck) {
  end.refuses_with = Fault::kRefused;
  say(init(5, "s1"));
  expect_heard({control(V1Message::kClose, 5, -1)});
}

TEST_F(V1PuppetTest, AckOfZeroOrLessRefusesTheClient) {
  for (const int32_t server : {-1, 0, INT32_MIN}) {
    end.open(1);
    const int32_t number = decode_v1_head(hear().at(0).data()).control_client();
    say(control(V1Message::kAck, number, server));
    EXPECT_EQ(end.at(1).fault, Fault::kRefused);
    expect_heard({});
  }
}

TEST_F(V1PuppetTest, SecondAckIsIgnoredAndAnotherServerIsClosed) {
  const int32_t number = open_client(1, 44);
  say(control(V1Message::kAck, number, 44));
  expect_heard({});
  say(control(V1Message::kAck, number, 45));
  expect_heard({control(V1Message::kClose, -1, 45)});
  say(control(V1Message::kAck, number, -1));
  expect_heard({});
  EXPECT_TRUE(end.is_open(1));
  say(data(V1Type::kServer, number, 44));
  EXPECT_EQ(end.at(1).received, 100u);
}

TEST_F(V1PuppetTest, AckForNobodyIsAnsweredWithClose) {
  say(control(V1Message::kAck, 17, 44));
  expect_heard({control(V1Message::kClose, -1, 44)});
  say(control(V1Message::kAck, 17, -44));
  expect_heard({});
  // An INIT that has not been written was never heard: its number is a guess.
  const int32_t number = open_client(1, 3);
  end.open(2);
  say(control(V1Message::kAck, number + 1, 45));
  EXPECT_TRUE(end.is_open(2));
  EXPECT_EQ(end.credit(2), 0u);
}

TEST_F(V1PuppetTest, NumbersNotGivenOutTouchNothing) {
  const int32_t client = open_client(1, 44);
  const int32_t server = open_service(2, 5);
  for (const int32_t number :
       {-1, 0, 5, 44, 999'999, client - 1, server + 1, INT32_MAX, INT32_MIN}) {
    say(data(V1Type::kServer, number, 44));
    if (number > 0) say(data(V1Type::kClient, 5, number));
    say(control(V1Message::kClose, number, -1));
    say(control(V1Message::kClose, -1, number));
  }
  // A client's number is no server's, and the other way round.
  say(data(V1Type::kServer, server, 44));
  say(data(V1Type::kClient, 5, client));
  say(control(V1Message::kClose, server, -1));
  say(control(V1Message::kClose, -1, client));
  expect_heard({});
  for (const uint64_t id : {1, 2}) {
    EXPECT_TRUE(end.is_open(id));
    EXPECT_EQ(end.at(id).received, 0u);
  }
  EXPECT_TRUE(end.saw(Glitch::kUnknownNumber));
}

TEST_F(V1PuppetTest, NumberOfBytesOutOfRangeClosesItsStreamAndNoOther) {
  open_client(2, 45);
  for (const int32_t bytes : {0, -1, 1025, INT32_MAX, INT32_MIN}) {
    const int32_t client = open_client(1, 44);
    say(data(V1Type::kServer, client, 44, 100, bytes));
    EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer) << bytes;
    EXPECT_TRUE(end.is_open(2));
    EXPECT_EQ(end.at(1).received, 0u);
    expect_heard({control(V1Message::kClose, -1, 44)});
    EXPECT_EQ(end.glitches.back(), Glitch::kBadBytes);
  }
}

TEST_F(V1PuppetTest, UnknownTypesAndMessagesAreDropped) {
  const int32_t client = open_client(1, 44);
  for (const uint32_t type : {0u, 4u, 0x10u, 0xffffffffu}) {
    Bytes packet = data(V1Type::kServer, client, 44);
    store_le(packet.data(), type);
    say(packet);
    EXPECT_EQ(end.glitches.back(), Glitch::kUnknownType);
  }
  for (const uint32_t message : {0u, 4u, 0x32585056u, 0xffffffffu}) {
    Bytes packet = control(V1Message::kClose, client, -1);
    store_le(packet.data() + 4, message);
    say(packet);
    EXPECT_EQ(end.glitches.back(), Glitch::kUnknownMessage);
  }
  EXPECT_TRUE(end.is_open(1));
  expect_heard({});
}

TEST_F(V1PuppetTest, MalformedInitsAreDroppedOrRefused) {
  say(init(-1, "s1"));
  EXPECT_EQ(end.glitches.back(), Glitch::kBadClientNumber);
  expect_heard({});
  Bytes packet = init(5, std::string(31, 'n'));
  packet[43] = std::byte{'n'};
  say(packet);
  EXPECT_EQ(end.glitches.back(), Glitch::kBadServiceName);
  expect_heard({control(V1Message::kClose, 5, -1)});
  say(init(5, ""));
  EXPECT_EQ(end.glitches.back(), Glitch::kBadServiceName);
  expect_heard({control(V1Message::kClose, 5, -1)});
}

TEST_F(V1PuppetTest, ClientNumberGivenOutAgainGoesToTheNewClient) {
  const int32_t first = open_service(1, 5);
  const int32_t second = open_service(2, 5);
  EXPECT_NE(first, second);
  EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.is_open(2));
  EXPECT_TRUE(end.saw(Glitch::kNumberAgain));
  expect_heard({});  // CLOSE(5, -1) would close the new one
  say(data(V1Type::kClient, 5, second));
  EXPECT_EQ(end.at(2).received, 100u);
}

// The peer reads the ACK for a client that is gone, and takes it for the one that has its number
// now.
TEST_F(V1PuppetTest, NewClientMayUseTheServerNumberOfTheOneBefore) {
  const int32_t first = open_service(1, 5);
  const int32_t second = open_service(2, 5);
  say(data(V1Type::kClient, 5, first, 100));
  EXPECT_EQ(end.at(2).received, 100u);
  say(data(V1Type::kClient, 5, second, 100));
  EXPECT_EQ(end.at(2).received, 200u);
  say(control(V1Message::kClose, -1, first));
  EXPECT_EQ(end.at(2).fate, Fate::kClosed);
  expect_heard({});
  say(data(V1Type::kClient, 5, first));
  EXPECT_EQ(end.glitches.back(), Glitch::kUnknownNumber) << "it is nobody's now";
}

TEST_F(V1PuppetTest, NewClientMaySpeakBeforeItsOwnAck) {
  const int32_t first = open_service(1, 5);
  end.accepts_at_once = false;
  say(init(5, "s2"));
  say(data(V1Type::kClient, 5, first, 100));
  EXPECT_EQ(end.at(2).received, 100u);
  EXPECT_TRUE(end.is_open(2));
  say(init(5, "s3"));
  EXPECT_EQ(end.at(2).fate, Fate::kResetByPeer);
  say(data(V1Type::kClient, 5, first, 50));
  EXPECT_EQ(end.at(3).received, 50u) << "the number goes on to whoever is next";
  end.accept(3);
  const auto heard = hear();
  ASSERT_EQ(heard.size(), 1u);
  const int32_t third = decode_v1_head(heard[0].data()).control_server();
  say(data(V1Type::kClient, 5, third, 50));
  EXPECT_EQ(end.at(3).received, 100u);
}

// Who is closed before its service is there has nothing that could be lost, unless it has spoken.
TEST_F(V1PuppetTest, NewClientMayCloseBeforeItsOwnAck) {
  const int32_t first = open_service(1, 5);
  end.accepts_at_once = false;
  say(init(5, "s2"));
  say(control(V1Message::kClose, -1, first));
  EXPECT_EQ(end.at(2).fate, Fate::kResetByPeer);
  const int32_t again = [&] {
    end.accepts_at_once = true;
    return open_service(3, 5);
  }();
  end.accepts_at_once = false;
  say(init(5, "s4"));
  say(data(V1Type::kClient, 5, again, 100));
  say(control(V1Message::kClose, -1, again));
  EXPECT_EQ(end.at(4).received, 100u);
  EXPECT_EQ(end.at(4).fate, Fate::kClosed);
}

TEST_F(V1PuppetTest, NoMoreThanTheLastFourNumbersAreKept) {
  std::vector<int32_t> numbers;
  for (uint64_t id = 1; id <= 7; ++id) numbers.push_back(open_service(id, 5));
  for (const size_t gone : {0, 1}) {
    say(data(V1Type::kClient, 5, numbers[gone]));
    EXPECT_EQ(end.at(7).received, 0u);
  }
  for (const size_t kept : {2, 3, 4, 5, 6}) say(data(V1Type::kClient, 5, numbers[kept]));
  EXPECT_EQ(end.at(7).received, 500u);
}

// A listener keeps the services of an earlier life, and sends on what they say.
TEST_F(V1PuppetTest, DataOfNobodysServerCloseIt) {
  say(data(V1Type::kServer, 17, 44));
  say(data(V1Type::kServer, 17, 44));
  expect_heard({control(V1Message::kClose, -1, 44)});
  say(data(V1Type::kServer, 17, 44));
  expect_heard({});
  // A live stream's number is not closed, nor one that an ACK on its way may have.
  const int32_t number = open_client(1, 44);
  say(data(V1Type::kServer, 17, 44));
  expect_heard({});
  end.open(2);
  ASSERT_EQ(hear().size(), 1u);
  say(data(V1Type::kServer, 18, 45));
  expect_heard({});
  EXPECT_TRUE(end.is_open(1));
  say(control(V1Message::kClose, number, -1));
}

// Or the peer could give the number out for the INIT, and then close it.
TEST_F(V1PuppetTest, CloseOfNobodysServerGoesBeforeTheNextInit) {
  say(data(V1Type::kServer, 17, 44));
  end.open(1);
  const auto heard = hear();
  ASSERT_EQ(heard.size(), 2u);
  EXPECT_EQ(heard[0], control(V1Message::kClose, -1, 44));
  EXPECT_EQ(decode_v1_head(heard[1].data()).message(), 1u);
}

// A peer's numbers are descriptors of one process: a line that hides its restart shows it like
// that.
TEST_F(V1PuppetTest, ServerNumberGivenOutAgainGoesToTheNewStream) {
  const int32_t first = open_client(1, 44);
  const int32_t second = open_client(2, 44);
  EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.is_open(2));
  EXPECT_TRUE(end.saw(Glitch::kNumberAgain));
  expect_heard({});  // CLOSE(-1, 44) would close the new one
  say(data(V1Type::kServer, first, 44));
  say(data(V1Type::kServer, second, 44));
  EXPECT_EQ(end.at(2).received, 100u);
  // That number is the second one's, whatever became of the first.
  open_client(3, 44);
  EXPECT_EQ(end.at(2).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.is_open(3));
}

TEST_F(V1PuppetTest, ClientNumberThatWasAServersEndsThatStreamAndTheOtherWayRound) {
  open_client(1, 9);
  const int32_t server = open_service(2, 9);
  EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.is_open(2));
  say(data(V1Type::kClient, 9, server));
  EXPECT_EQ(end.at(2).received, 100u);
  open_client(3, 9);
  EXPECT_EQ(end.at(2).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.is_open(3));
  EXPECT_EQ(std::count(end.glitches.begin(), end.glitches.end(), Glitch::kNumberAgain), 2);
  expect_heard({});
}

TEST_F(V1PuppetTest, AckThatLeadsNowhereStillEndsTheEarlierBearerOfItsNumber) {
  const int32_t number = open_client(1, 9);
  open_client(2, 10);
  say(control(V1Message::kAck, 17, 9));
  EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer);
  expect_heard({control(V1Message::kClose, -1, 9)});
  // The number is free again.
  open_client(3, 9);
  say(control(V1Message::kAck, number + 1, 9));
  EXPECT_EQ(end.at(3).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.is_open(2));
  expect_heard({control(V1Message::kClose, -1, 9)});
}

TEST_F(V1PuppetTest, ServerNumberOfAStreamThatIsOverIsFree) {
  const int32_t first = open_client(1, 44);
  say(control(V1Message::kClose, first, -1));
  open_client(2, 44);
  EXPECT_EQ(end.at(1).fate, Fate::kClosed);
  EXPECT_TRUE(end.is_open(2));
  EXPECT_TRUE(end.glitches.empty());
}

TEST_F(V1PuppetTest, DataWrittenBeforeTheAckWasReadClosesItsStream) {
  const int32_t server = open_service(1, 5);
  say(data(V1Type::kClient, 5, server - 1));  // late, of nobody
  EXPECT_TRUE(end.is_open(1));
  for (const int32_t unknown : {-1, 0, INT32_MIN}) {
    SCOPED_TRACE(unknown);
    open_service(2, 6);
    say(data(V1Type::kClient, 6, unknown));
    EXPECT_EQ(end.at(2).fate, Fate::kResetByPeer) << "or it would go on with a hole";
    EXPECT_EQ(end.glitches.back(), Glitch::kDataBeforeAck);
    expect_heard({control(V1Message::kClose, 6, -1)});
  }
  EXPECT_TRUE(end.is_open(1));
}

TEST_F(V1PuppetTest, DataBeforeTheAckClosesItsStream) {
  end.accepts_at_once = false;
  say(init(5, "s1"));
  say(data(V1Type::kClient, 5, -1));
  EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer);
  EXPECT_TRUE(end.saw(Glitch::kDataBeforeAck));
  expect_heard({control(V1Message::kClose, 5, -1)});
}

TEST_F(V1PuppetTest, CloseThatNamesBothClosesTheOneThatIsOurs) {
  const int32_t client = open_client(1, 44);
  const int32_t server = open_service(2, 5);
  say(control(V1Message::kClose, 5, server));
  EXPECT_EQ(end.at(2).fate, Fate::kClosed);
  EXPECT_TRUE(end.is_open(1));
  const int32_t again = open_service(3, 6);
  say(control(V1Message::kClose, client, again));
  EXPECT_EQ(end.at(1).fate, Fate::kClosed) << "the client is looked at first";
  EXPECT_TRUE(end.is_open(3));
  expect_heard({});
}

TEST_F(V1PuppetTest, NothingIsSaidAfterClose) {
  const int32_t client = open_client(1, 44);
  end.queue(1, 5000);
  say(control(V1Message::kClose, client, -1));
  expect_heard({});
  say(data(V1Type::kServer, client, 44));
  EXPECT_EQ(end.at(1).received, 0u);
}

TEST_F(V1PuppetTest, StreamsAreLimitedAndSoAreRefusals) {
  SessionConfig config = config_with(3);
  config.limits.max_streams = 4;
  end = ChoosingEnd(config, ProtocolMode::kV1);
  end.transport_up(now);
  for (int32_t client = 0; client < 1000; ++client) say(init(client, "s" + std::to_string(client)));
  EXPECT_EQ(end.selector->stats().streams, 4u);
  EXPECT_TRUE(end.saw(Glitch::kTooManyAnswers));
  const auto heard = hear();
  EXPECT_LE(heard.size(), 4u + 4u + 64u);
  EXPECT_GE(heard.size(), 64u);
}

// --- one stray byte -----------------------------------------------------------------------------

TEST_F(V1PuppetTest, StrayByteAtEveryOffsetCostsAtMostTheStreamItHit) {
  int survived = 0;
  for (size_t offset = 0; offset <= kV1PacketSize; ++offset) {
    end = ChoosingEnd(config_with(offset + 1), ProtocolMode::kV1);
    end.transport_up(now);
    end.checks_content = false;
    const int32_t hit = open_client(1, 44);
    const int32_t other = open_client(2, 45);
    Bytes torn = data(V1Type::kServer, hit, 44, 1000);
    torn.insert(torn.begin() + static_cast<ptrdiff_t>(offset), std::byte{0x42});
    say(torn);
    for (int i = 0; i < 3; ++i) say(data(V1Type::kServer, other, 45, 1000));
    ASSERT_TRUE(end.saw(Glitch::kBytesSkipped)) << offset;
    say(control(V1Message::kClose, other, -1));
    if (offset < 16) {
      // The head says no more whose bytes they were.
      EXPECT_EQ(end.at(1).received, offset == 0 ? 1000u : 0u) << "nothing was lost";
      EXPECT_EQ(end.at(1).fate == Fate::kResetByPeer, offset > 0) << offset;
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

TEST_F(V1PuppetTest, BytesThatAreMissingCloseEveryStream) {
  const int32_t one = open_client(1, 44);
  open_client(2, 45);
  Bytes bytes;
  for (int i = 0; i < 6; ++i) {
    const Bytes packet = data(V1Type::kServer, one, 44, 1000);
    bytes.insert(bytes.end(), packet.begin(), packet.end());
  }
  bytes.erase(bytes.begin() + 500, bytes.begin() + 2600);
  say(bytes);
  EXPECT_EQ(end.at(1).fate, Fate::kResetByPeer);
  EXPECT_EQ(end.at(2).fate, Fate::kResetByPeer) << "it may have been in what is gone";
  const auto heard = hear();
  EXPECT_EQ(heard.size(), 2u);
}

TEST_F(V1PuppetTest, InitIsHeardThroughAnyAmountOfGarbage) {
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
  EXPECT_LE(end.most_kept, kV1SearchKeeps);
}

}  // namespace
}  // namespace virtproxy::test
