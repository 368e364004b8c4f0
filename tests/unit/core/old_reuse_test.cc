// Version 1: what is under way to a number of the peer's when that is given out anew.
#include <gtest/gtest.h>

#include "tests/unit/core/old_puppet.h"

namespace virtproxy::test {
namespace {

class OldReuseTest : public V1PuppetTest {
 protected:
  // A download of the peer's client 5: a batch of it is under way, more is queued.
  int32_t download(uint64_t id) {
    const int32_t number = open_service(id, 5);
    end.queue(id, 100 * 1024);
    EXPECT_TRUE(end.write(15 * kV1PacketSize, now));
    end.out.clear();
    return number;
  }
  void abort(int32_t number) { say(control(V1Message::kClose, -1, number)); }
  void expect_refused(int32_t client, std::string_view service) {
    say(init(client, service));
    EXPECT_EQ(end.glitches.back(), Glitch::kForeignBytes);
    expect_heard({control(V1Message::kClose, client, -1)});
  }
  Session& session() { return end.selector->session(); }
};

TEST_F(OldReuseTest, ClientWhoseNumberHasDataUnderWayIsClosedAndTheNextIsNot) {
  abort(download(1));
  expect_refused(5, "s2");
  // The one after that is given the number behind the CLOSE, and so behind all foreign bytes.
  open_service(3, 5);
  EXPECT_TRUE(end.is_open(3));
}

TEST_F(OldReuseTest, OtherNumbersAreNotTouched) {
  abort(download(1));
  open_service(2, 6);
  EXPECT_TRUE(end.is_open(2));
}

TEST_F(OldReuseTest, ClientThatLeftWhenAllWasWrittenLeavesACleanNumber) {
  const int32_t number = open_service(1, 5);
  end.queue(1, 1000);
  hear();
  abort(number);
  open_service(2, 5);
  EXPECT_TRUE(end.is_open(2));
}

TEST_F(OldReuseTest, NumberIsFreeOnceAllIsRead) {
  session().on_unread(0, 0);
  abort(download(1));
  EXPECT_TRUE(session().waits_for_unread());
  session().on_unread(0, 0);
  EXPECT_FALSE(session().waits_for_unread());
  open_service(2, 5);
  EXPECT_TRUE(end.is_open(2));
}

TEST_F(OldReuseTest, NumberIsFreeOnceEnoughWasWrittenBehindItsData) {
  session().on_unread(0, 0);
  open_service(9, 9);
  abort(download(1));
  session().on_unread(24 * 1024, 0);
  EXPECT_TRUE(session().waits_for_unread());
  end.queue(9, 30 * 1024);
  hear();
  session().on_unread(24 * 1024, 0);
  EXPECT_FALSE(session().waits_for_unread());
  open_service(2, 5);
  EXPECT_TRUE(end.is_open(2));
}

// The peer said INIT before it read the last of the data, and it is used only afterwards.
TEST_F(OldReuseTest, WhatThePeerSaidBeforeItReadAllIsNotTakenForLater) {
  session().on_unread(0, 0);
  abort(download(1));
  session().on_unread(0, kV1PacketSize);
  expect_refused(5, "s2");
  abort(download(3));
  session().on_unread(0, kV1PacketSize);
  open_service(4, 6);
  open_service(5, 5);
  EXPECT_TRUE(end.is_open(5)) << "that INIT came behind what was there";
}

TEST_F(OldReuseTest, WhereNothingIsToldANumberIsFreeAfterAMoment) {
  abort(download(1));
  now += UnreadNumbers::kAssumed;
  open_service(2, 5);
  EXPECT_TRUE(end.is_open(2));
}

TEST_F(OldReuseTest, WhereReadingIsToldTimeAloneFreesNothing) {
  session().on_unread(0, 0);
  abort(download(1));
  now += seconds(10);
  expect_refused(5, "s2");
}

TEST_F(OldReuseTest, ServiceOfThePeersIsClosedForTheSameReason) {
  const int32_t number = open_client(1, 44);
  end.queue(1, 100 * 1024);
  end.write(15 * kV1PacketSize, now);
  end.out.clear();
  say(control(V1Message::kClose, number, -1));
  end.open(2);
  const int32_t second = decode_v1_head(hear().at(0).data()).control_client();
  say(control(V1Message::kAck, second, 44));
  EXPECT_EQ(end.at(2).fate, Fate::kResetByPeer);
  expect_heard({control(V1Message::kClose, -1, 44)});
}

TEST_F(OldReuseTest, ANewSessionStartsClean) {
  abort(download(1));
  end.transport_down();
  end.transport_up(now);
  open_service(2, 5);
  EXPECT_TRUE(end.is_open(2));
}

// --- CLOSE that meets the next client -----------------------------------------------------------

class OldCrossingTest : public OldReuseTest {
 protected:
  // A service that answers and ends. Its client has not left yet.
  int32_t answer(uint64_t id) {
    const int32_t number = open_service(id, 5);
    say(data(V1Type::kClient, 5, number));
    end.queue(id, 300);
    end.end(id);
    return number;
  }
  void pass(Duration time) {
    now += time;
    end.tick(now);
  }
};

TEST_F(OldCrossingTest, CloseThatIsNotWrittenYetIsTakenBackFromTheNextClient) {
  const int32_t number = open_service(1, 5);
  end.reset(1);
  abort(number);
  open_service(2, 5);
  EXPECT_TRUE(end.is_open(2));
}

TEST_F(OldCrossingTest, CloseWaitsAMomentWhereClientsLeaveByThemselves) {
  const int32_t first = answer(1);
  EXPECT_EQ(hear().size(), 2u) << "the answer, and CLOSE at once";
  abort(first);
  const int32_t second = answer(2);
  EXPECT_EQ(hear().size(), 1u) << "the answer";
  abort(second);
  pass(V1Session::kLeaveTime);
  expect_heard({});
  EXPECT_EQ(end.at(2).fate, Fate::kClosed);
}

TEST_F(OldCrossingTest, ClientThatWaitsForCloseGetsIt) {
  abort((answer(1), hear(), 1'000'000));
  answer(2);
  EXPECT_EQ(hear().size(), 1u);
  pass(V1Session::kLeaveTime);
  expect_heard({control(V1Message::kClose, 5, -1)});
  EXPECT_EQ(end.at(2).fate, Fate::kClosed);
}

TEST_F(OldCrossingTest, WhereClientsWaitForCloseItIsSoonWrittenAtOnceAgain) {
  abort((answer(1), hear(), 1'000'000));
  uint64_t id = 1;
  for (unsigned i = 0; i < V1Session::kLeavesExpected; ++i) {
    answer(++id);
    EXPECT_EQ(hear().size(), 1u);
    pass(V1Session::kLeaveTime);
    EXPECT_EQ(hear().size(), 1u);
  }
  answer(++id);
  EXPECT_EQ(hear().size(), 2u);
}

}  // namespace
}  // namespace virtproxy::test
