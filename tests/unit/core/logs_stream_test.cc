// Sender and receiver, message by message: what is judged, and what ends a stream.
#include <gtest/gtest.h>

#include "core/logs/receiver.h"
#include "core/logs/sender.h"
#include "core/logs/shipper.h"

namespace virtproxy::logs::test {

using Bytes = std::vector<std::byte>;

namespace {

constexpr LogId kSentLog{7, 9};
const uint64_t kSentKey = check_key(kSentLog);

// A receiver that has taken a HELLO of two sources, and batches made by hand.
struct Puppet {
  explicit Puppet(size_t max_logs = 4) : receiver(max_logs) {}

  StreamFault hello(const LogId& log = kSentLog, size_t sources = 2) {
    Bytes bytes;
    encode(Hello{kVersion, log, {}, 0, std::vector(sources, HelloSource{"s", {}, {}})}, bytes);
    return feed(bytes);
  }
  StreamFault feed(const Bytes& bytes) {
    found.clear();
    return receiver.feed(bytes, found);
  }
  // Lines of 10 bytes.
  StreamFault lines(uint16_t source, const Mark& first, uint64_t count) {
    BatchBuilder builder(source, first);
    const Bytes line(10);
    for (uint64_t i = 0; i < count; ++i) builder.add_line({1, {}, line});
    return batch(builder);
  }
  StreamFault drop(uint16_t source, const Mark& first, uint64_t count, uint64_t bytes) {
    BatchBuilder builder(source, first);
    builder.add_drop({DropReason::kOldest, 0, count, bytes, 1, 2});
    return batch(builder);
  }
  StreamFault batch(BatchBuilder& builder, uint16_t flags = 0) {
    Bytes bytes = builder.finish(flags);
    seal_batch(bytes, kSentLog, kSentKey, position);
    position += bytes.size();
    return feed(bytes);
  }
  StreamFault state(bool final, std::vector<Mark> marks) {
    Bytes bytes;
    encode(State{kSentLog.low, final, std::move(marks)}, bytes);
    return feed(bytes);
  }
  const SourceAccount& account(size_t source = 0) { return receiver.log()->sources[source]; }

  Receiver receiver;
  std::vector<Received> found;
  uint64_t position = 0;
};

TEST(LogReceiver, NumbersInOrderAreTaken) {
  Puppet puppet;
  ASSERT_EQ(puppet.hello(), StreamFault::kNone);
  EXPECT_EQ(puppet.lines(0, {0, 0}, 3), StreamFault::kNone);
  EXPECT_EQ(puppet.found.size(), 3u);
  EXPECT_EQ(puppet.lines(1, {0, 0}, 1), StreamFault::kNone);
  EXPECT_EQ(puppet.drop(0, {3, 30}, 7, 70), StreamFault::kNone);
  EXPECT_EQ(puppet.account().next, (Mark{10, 100}));
  EXPECT_EQ(puppet.account().delivered, (Tally{3, 30}));
  EXPECT_EQ(puppet.account().dropped[1], (Tally{7, 70}));
  EXPECT_TRUE(puppet.account().balanced());
  EXPECT_EQ(puppet.receiver.log()->position, puppet.position);
}

TEST(LogReceiver, WhatNothingExplainsIsUnaccounted) {
  Puppet puppet;
  puppet.hello();
  puppet.lines(0, {0, 0}, 3);
  EXPECT_EQ(puppet.lines(0, {5, 47}, 1), StreamFault::kNone);
  ASSERT_EQ(puppet.found.size(), 2u);
  EXPECT_EQ(puppet.found[0].kind, Received::Kind::kUnaccounted);
  EXPECT_EQ(puppet.found[0].record.drop.first, 3u);
  EXPECT_EQ(puppet.found[0].record.drop.count, 2u);
  EXPECT_EQ(puppet.found[0].record.drop.bytes, 17u);
  EXPECT_EQ(puppet.found[1].record.seq, 5u);
  EXPECT_TRUE(puppet.account().balanced());
  // A STATE alone decides nothing; the final one does.
  EXPECT_EQ(puppet.state(false, {{9, 90}, {4, 40}}), StreamFault::kNone);
  EXPECT_TRUE(puppet.found.empty());
  EXPECT_EQ(puppet.state(true, {{8, 80}, {0, 0}}), StreamFault::kNone);
  ASSERT_EQ(puppet.found.size(), 3u);
  EXPECT_EQ(puppet.found[0].record.drop.count, 3u) << "9 were told of";
  EXPECT_EQ(puppet.found[1].source, 1u);
  EXPECT_EQ(puppet.found[1].record.drop.count, 4u);
  EXPECT_EQ(puppet.found[2].kind, Received::Kind::kFinal);
  EXPECT_EQ(puppet.account().unaccounted, (Tally{5, 50}));
  EXPECT_TRUE(puppet.account().balanced());
}

TEST(LogReceiver, DuplicatesAreLeftOutAndDropRecordsCut) {
  Puppet puppet;
  puppet.hello();
  puppet.lines(0, {0, 0}, 5);
  EXPECT_EQ(puppet.lines(0, {2, 20}, 3), StreamFault::kNone);
  EXPECT_TRUE(puppet.found.empty());
  EXPECT_EQ(puppet.lines(0, {4, 40}, 2), StreamFault::kNone);
  EXPECT_EQ(puppet.found.size(), 1u);
  EXPECT_EQ(puppet.account().duplicates, 4u);
  EXPECT_EQ(puppet.drop(0, {1, 10}, 9, 990), StreamFault::kNone);
  ASSERT_EQ(puppet.found.size(), 1u);
  EXPECT_EQ(puppet.found[0].record.drop.first, 6u);
  EXPECT_EQ(puppet.found[0].record.drop.count, 4u);
  EXPECT_EQ(puppet.found[0].record.drop.bytes, 940u);
  EXPECT_EQ(puppet.account().next, (Mark{10, 1000}));
  EXPECT_TRUE(puppet.account().balanced());
}

TEST(LogReceiver, MarksThatContradictEndTheStream) {
  {
    Puppet puppet;
    puppet.hello();
    puppet.lines(0, {0, 0}, 5);
    EXPECT_EQ(puppet.lines(0, {5, 51}, 1), StreamFault::kBadNumbers) << "other bytes";
    EXPECT_EQ(puppet.receiver.log(), nullptr);
    EXPECT_TRUE(puppet.receiver.accounts().back().sources[0].balanced());
  }
  {
    Puppet puppet;
    puppet.hello();
    puppet.lines(0, {0, 0}, 5);
    EXPECT_EQ(puppet.lines(0, {6, 49}, 1), StreamFault::kBadNumbers) << "bytes go back";
  }
  {
    Puppet puppet;
    puppet.hello();
    puppet.lines(0, {0, 0}, 5);
    EXPECT_EQ(puppet.drop(0, {0, 0}, 9, 49), StreamFault::kBadNumbers) << "a cut of negative size";
  }
  {
    Puppet puppet;
    puppet.hello();
    EXPECT_EQ(puppet.lines(2, {0, 0}, 1), StreamFault::kBadNumbers) << "a source not announced";
  }
  {
    Puppet puppet;
    puppet.hello();
    EXPECT_EQ(puppet.state(false, {{1, 1}}), StreamFault::kBadNumbers) << "one mark of two";
  }
}

TEST(LogReceiver, WhatIsOutOfTurnEndsTheStream) {
  Puppet before;
  EXPECT_EQ(before.lines(0, {0, 0}, 1), StreamFault::kOutOfTurn);
  EXPECT_EQ(before.state(false, {{}, {}}), StreamFault::kOutOfTurn);
  Puppet again;
  again.hello();
  EXPECT_EQ(again.hello({8, 8}), StreamFault::kOutOfTurn) << "the first log is not finished";
  Puppet behind;
  behind.hello();
  behind.state(true, {{}, {}});
  EXPECT_EQ(behind.lines(0, {0, 0}, 1), StreamFault::kOutOfTurn);
  Puppet next;
  next.hello();
  next.state(true, {{}, {}});
  next.receiver.acknowledge_final(AckLevel::kSink);
  EXPECT_EQ(next.hello({8, 8}), StreamFault::kNone);
  Puppet other;
  other.hello();
  other.receiver.lost();
  EXPECT_EQ(other.hello(kSentLog, 3), StreamFault::kBadNumbers) << "sources do not change";
  Puppet wrong;
  Bytes bytes;
  encode(Ack{7, 0, AckLevel::kSink, false}, bytes);
  EXPECT_EQ(wrong.feed(bytes), StreamFault::kBadType);
  bytes.clear();
  encode(Hello{2, kSentLog, {}, 0, {{"s", {}, {}}}}, bytes);
  EXPECT_EQ(wrong.feed(bytes), StreamFault::kBadVersion);
  EXPECT_EQ(wrong.feed(Bytes(16)), StreamFault::kBadMagic);
}

TEST(LogReceiver, HowTheBytesAreCutMakesNoDifference) {
  Bytes all;
  encode(Hello{kVersion, kSentLog, {}, 0, {{"s", {}, {}}}}, all);
  Mark mark;
  for (int i = 0; i < 5; ++i) {
    BatchBuilder builder(0, mark);
    const Bytes line(static_cast<size_t>(i) * 50);
    builder.add_line({1, {}, line});
    builder.add_drop({DropReason::kRate, 0, 2, 5, 1, 2});
    mark = builder.mark();
    Bytes batch = builder.finish();
    seal_batch(batch, kSentLog, kSentKey, static_cast<uint64_t>(i) * 4096);
    all.insert(all.end(), batch.begin(), batch.end());
  }
  encode(State{kSentLog.low, true, {mark}}, all);
  for (size_t piece = 1; piece <= all.size(); piece = piece < 80 ? piece + 1 : piece * 2) {
    Receiver receiver(1);
    size_t records = 0;
    bool final = false;
    for (size_t at = 0; at < all.size(); at += piece) {
      std::vector<Received> found;
      const auto part = std::span(all).subspan(at, std::min(piece, all.size() - at));
      ASSERT_EQ(receiver.feed(part, found), StreamFault::kNone) << piece;
      for (const Received& one : found) {
        records += one.kind == Received::Kind::kLine || one.kind == Received::Kind::kDrop;
        final = final || one.kind == Received::Kind::kFinal;
      }
    }
    EXPECT_EQ(records, 10u) << piece;
    EXPECT_TRUE(final) << piece;
    EXPECT_EQ(receiver.accounts()[0].sources[0].next, mark);
  }
}

TEST(LogReceiver, AccountsAreBoundedAndWhatIsForgottenIsTold) {
  Puppet puppet(2);
  for (uint64_t i = 0; i < 1000; ++i) {
    puppet.receiver.lost();
    ASSERT_EQ(puppet.hello({i, 1}), StreamFault::kNone);
    ASSERT_LE(puppet.receiver.accounts().size(), 2u);
    Bytes bytes;
    encode(State{i, false, {{3, 30}, {}}}, bytes);
    ASSERT_EQ(puppet.feed(bytes), StreamFault::kNone);
  }
  puppet.receiver.lost();
  puppet.hello({1000, 1});
  ASSERT_EQ(puppet.found.size(), 2u);
  EXPECT_EQ(puppet.found[0].kind, Received::Kind::kForgotten);
  EXPECT_EQ(puppet.found[0].record.drop.count, 3u);
}

TEST(LogReceiver, ARejectedLineIsMovedToTheDropped) {
  Puppet puppet;
  puppet.hello();
  puppet.lines(0, {0, 0}, 2);
  puppet.receiver.reject(puppet.receiver.log()->id, 0, 1, 10);
  EXPECT_EQ(puppet.account().delivered, (Tally{1, 10}));
  EXPECT_EQ(puppet.account().dropped[6], (Tally{1, 10}));
  EXPECT_TRUE(puppet.account().balanced());
}

TEST(LogReceiver, ALineOfALogThatIsOverIsRejectedInItsAccountAlone) {
  Puppet puppet;
  puppet.hello();
  puppet.lines(0, {0, 0}, 2);
  const LogId over = puppet.receiver.log()->id;
  puppet.hello({1000, 1});
  puppet.receiver.out().clear();
  EXPECT_TRUE(puppet.receiver.reject(over, 0, 1, 10));
  EXPECT_EQ(puppet.receiver.accounts().front().sources[0].delivered, (Tally{1, 10}));
  EXPECT_TRUE(puppet.receiver.out().empty());
  EXPECT_FALSE(puppet.receiver.reject({9, 9}, 0, 1, 10)) << "of a log that nobody knows";
  EXPECT_FALSE(puppet.receiver.reject(over, 7, 1, 10)) << "of no source";
}

// --- the sender -------------------------------------------------------------------------------

LogDescription description() {
  LogDescription log;
  log.id = kSentLog;
  log.position = 100;
  log.sources = {{"a", {5, 50}, {8, 80}}, {"b", {}, {}}};
  return log;
}

Bytes want(bool known, uint64_t position, std::vector<Mark> marks, bool finished = false) {
  Bytes bytes;
  encode(Want{kSentLog.low, known, finished, position, std::move(marks)}, bytes);
  return bytes;
}

Bytes ack(uint64_t position, bool final = false) {
  Bytes bytes;
  encode(Ack{kSentLog.low, position, AckLevel::kSink, final}, bytes);
  return bytes;
}

TEST(LogSender, ExplainsWhatIsNotStoredAnyMore) {
  struct {
    Bytes answer;
    uint64_t explained;
    uint64_t position;
  } const kCases[] = {
      {want(false, 0, {{}, {}}), 3, 100},            // a new account begins at `acked`
      {want(true, 90, {{6, 60}, {}}), 2, 100},       // what lies between WANT and start
      {want(true, 150, {{9, 90}, {2, 2}}), 0, 150},  // nothing is missing
      {want(true, 90, {{2, 20}, {}}), 3, 100},       // what was acknowledged is not explained
      {want(true, kMaxNumber - 1, {{9, 90}, {}}), 0, 4096},  // a position behind the end
  };
  for (const auto& one : kCases) {
    Sender sender(1000);
    LogDescription log = description();
    log.end = 4096;
    sender.begin(log);
    EXPECT_FALSE(sender.may_send());
    ASSERT_EQ(sender.feed(one.answer), StreamFault::kNone);
    EXPECT_TRUE(sender.may_send());
    EXPECT_EQ(sender.explained()[1].lines, one.explained);
    EXPECT_EQ(sender.position(), one.position);
  }
}

TEST(LogSender, AnAnswerThatIsNotDueEndsTheStream) {
  const auto fault = [](const std::vector<Bytes>& answers) {
    Sender sender(1000);
    sender.begin(description());
    StreamFault last = StreamFault::kNone;
    for (const Bytes& one : answers) last = sender.feed(one);
    return last;
  };
  const Bytes good = want(false, 0, {{}, {}});
  EXPECT_EQ(fault({good}), StreamFault::kNone);
  EXPECT_EQ(fault({good, good}), StreamFault::kOutOfTurn);
  EXPECT_EQ(fault({ack(0)}), StreamFault::kOutOfTurn);
  EXPECT_EQ(fault({good, ack(100)}), StreamFault::kNone);
  EXPECT_EQ(fault({good, ack(101)}), StreamFault::kBadNumbers) << "what was not sent";
  EXPECT_EQ(fault({good, ack(100, true)}), StreamFault::kOutOfTurn) << "not finishing";
  EXPECT_EQ(fault({want(false, 0, {{}})}), StreamFault::kBadNumbers) << "one mark of two";
  EXPECT_EQ(fault({want(true, 0, {{6, 10}, {}})}), StreamFault::kBadNumbers) << "bytes go back";
  EXPECT_EQ(fault({Bytes(16)}), StreamFault::kBadMagic);
  Bytes state;
  encode(State{kSentLog.low, false, {{}, {}}}, state);
  EXPECT_EQ(fault({state}), StreamFault::kBadType);
  const auto reject = [](uint64_t log, uint16_t source) {
    Bytes bytes;
    encode(Reject{log, source, 5, 1, 10}, bytes);
    return bytes;
  };
  EXPECT_EQ(fault({good, reject(kSentLog.low, 1)}), StreamFault::kNone);
  EXPECT_EQ(fault({good, reject(kSentLog.low, 2)}), StreamFault::kBadNumbers) << "no such source";
  EXPECT_EQ(fault({good, reject(kSentLog.low + 1, 2)}), StreamFault::kNone) << "of the log before";
}

TEST(LogSender, TheWindowClosesAndAnAckOpensIt) {
  Sender sender(200);
  LogDescription log;
  log.id = kSentLog;
  log.sources = {{"a", {}, {}}};
  sender.begin(log);
  ASSERT_EQ(sender.feed(want(false, 0, {{}})), StreamFault::kNone);
  Mark mark;
  uint64_t position = 0;
  int sent = 0;
  for (; sender.may_send(); ++sent) {
    BatchBuilder builder(0, mark);
    const Bytes line(30);
    builder.add_line({1, {}, line});
    mark = builder.mark();
    Bytes batch = builder.finish();
    seal_batch(batch, kSentLog, kSentKey, position);
    BatchHeader header;
    ASSERT_EQ(decode_batch_header(batch, header), BatchFault::kNone);
    sender.send(batch, header, mark);
    position = header.end_position();
  }
  EXPECT_EQ(sent, 3);
  EXPECT_EQ(sender.feed(ack(position - 1)), StreamFault::kNone);
  EXPECT_TRUE(sender.may_send());
  EXPECT_EQ(sender.acked()[0].seq, 2u);
  EXPECT_EQ(sender.feed(ack(position)), StreamFault::kNone);
  EXPECT_EQ(sender.acked()[0].seq, 3u);
}

TEST(LogSender, AReceiverCannotMakeItTakeForAcknowledgedWhatItDidNotSend) {
  Sender sender(1000);
  LogDescription log;
  log.id = kSentLog;
  log.sources = {{"a", {}, {}}};
  sender.begin(log);
  ASSERT_EQ(sender.feed(want(true, 0, {{1000, 100000}})), StreamFault::kNone);
  BatchBuilder builder(0, {});
  builder.add_line({1, {}, {}});
  Bytes batch = builder.finish();
  seal_batch(batch, kSentLog, kSentKey, 0);
  BatchHeader header;
  ASSERT_EQ(decode_batch_header(batch, header), BatchFault::kNone);
  sender.send(batch, header, {1, 0});
  ASSERT_EQ(sender.feed(ack(header.end_position())), StreamFault::kNone);
  EXPECT_EQ(sender.acked()[0], (Mark{1, 0}));
}

// A shipper without a spool and its receiver; the test is what lies between them.
struct ShipperAndReceiver {
  Shipper shipper;
  Receiver receiver{4};
  std::vector<Received> found{};  // by the last carry()
  Instant now{};

  void offer(uint16_t source, size_t size) {
    const Bytes line(size);
    shipper.buffer().offer(source, {1, {}, line}, line.size(), now);
  }
  // All that the shipper sends a second later, to the receiver.
  void carry() {
    now += std::chrono::seconds(1);
    shipper.pump(now, 1);
    found.clear();
    EXPECT_EQ(receiver.feed(std::exchange(shipper.out(), {}), found), StreamFault::kNone);
  }
  void answer() { EXPECT_EQ(shipper.feed(std::exchange(receiver.out(), {})), StreamFault::kNone); }
  // A new stream, on which the shipper has spoken. What the receiver had to say is lost.
  void reconnect() {
    shipper.disconnected();
    receiver.lost();
    shipper.connected(now);
    carry();
  }
};

// The receiver has all that was sent, and its acknowledgement was lost with the stream. It comes
// with WANT, in one piece, and nothing that is sent later leads to another one.
TEST(LogShipper, AnAckThatComesWithWantMakesRoomInAFullWindow) {
  ShipperAndReceiver pair{
      Shipper({.buffer = {}, .window = 4096, .state_interval = std::chrono::seconds(5)}, {{"a"}},
              kSentLog, {}, std::nullopt)};
  size_t lines = 0;
  const auto count_lines = [&] {
    for (const Received& each : pair.found) lines += each.kind == Received::Kind::kLine ? 1 : 0;
  };
  pair.shipper.connected(pair.now);
  pair.carry();
  pair.answer();
  size_t offered = 0;
  for (; lines == offered && offered < 20; ++offered) {
    pair.offer(0, 1000);
    pair.carry();
    count_lines();
  }
  ASSERT_LT(lines, offered) << "the window is full";

  pair.reconnect();
  pair.receiver.acknowledge(pair.receiver.log()->position, AckLevel::kSink);
  pair.answer();
  const size_t before = lines;
  pair.carry();
  count_lines();
  EXPECT_GT(lines, before);
}

// The same with lines of two sources and nothing that is sent later: they count as acknowledged, so
// that a receiver without an account of the log is not told of them as the sender's.
TEST(LogShipper, WhatAnAckThatComesWithWantCoversIsAcknowledged) {
  for (const bool at_once : {true, false}) {
    ShipperAndReceiver pair{Shipper({}, {{"a"}, {"b"}}, kSentLog, {}, std::nullopt)};
    const auto marks = [&] { return pair.shipper.sender().acked(); };
    pair.shipper.connected(pair.now);
    pair.carry();
    pair.answer();
    for (const uint16_t source : std::initializer_list<uint16_t>{0, 0, 1}) pair.offer(source, 10);
    pair.carry();
    ASSERT_EQ(pair.receiver.log()->sources[0].next.seq, 2u);

    pair.reconnect();
    if (!at_once) {
      pair.answer();
      EXPECT_EQ(marks(), (std::vector<Mark>{{}, {}})) << "the receiver has them, and no more";
    }
    pair.receiver.acknowledge(pair.receiver.log()->position, AckLevel::kSink);
    pair.answer();
    EXPECT_EQ(marks(), (std::vector<Mark>{{2, 20}, {1, 10}}));

    pair.shipper.disconnected();
    pair.receiver = Receiver(4);
    pair.shipper.connected(pair.now);
    pair.carry();
    EXPECT_EQ(pair.receiver.log()->sources[0].base, (Mark{2, 20}));
  }
}

// The final ACK was lost with its stream.
TEST(LogShipper, ALogThatTheReceiverHasFinishedIsAcknowledged) {
  ShipperAndReceiver pair{Shipper({}, {{"a"}}, kSentLog, {}, std::nullopt)};
  pair.shipper.connected(pair.now);
  pair.carry();
  pair.answer();
  pair.offer(0, 10);
  pair.shipper.stop(false, pair.now);
  pair.carry();
  ASSERT_FALSE(pair.found.empty());
  ASSERT_EQ(pair.found.back().kind, Received::Kind::kFinal);
  pair.receiver.acknowledge_final(AckLevel::kSink);

  pair.reconnect();
  pair.answer();
  EXPECT_TRUE(pair.shipper.stopped());
  EXPECT_EQ(pair.shipper.sender().acked()[0], (Mark{1, 10}));
}

}  // namespace
}  // namespace virtproxy::logs::test
