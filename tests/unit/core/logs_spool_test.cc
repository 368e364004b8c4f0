// The spool file: whatever was written is found again after any end, and what is not is counted.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "core/wire/little_endian.h"
#include "tests/sim/random.h"
#include "tests/unit/core/log_spool_image.h"

namespace virtproxy::logs::test {
namespace {

constexpr uint32_t kSegment = 64u << 10;
constexpr uint64_t kSegments = 4;
constexpr LogId kFirst{11, 12};
constexpr LogId kSecond{21, 22};

SpoolGeometry geometry(uint64_t segments = kSegments) {
  return *spool_geometry(kSuperblockArea + segments * kSegment, kSegment);
}

// Every line tells where it belongs, so that each can be checked alone.
std::string line_of(const LogId& log, uint16_t source, uint64_t seq) {
  const uint64_t mixed = sim::mix(log.low * 1000 + source * 100 + seq);
  std::string text =
      std::to_string(log.low) + "/" + std::to_string(source) + "/" + std::to_string(seq) + " ";
  text.resize(text.size() + mixed % 400, static_cast<char>('a' + mixed % 26));
  return text;
}

struct Batch {
  LogId log;
  uint16_t source;
  uint64_t first;
  uint64_t end;
  uint64_t begin_offset;  // in the file
  uint64_t end_offset;
  uint64_t position;
  Mark mark;  // behind it
};

struct Write {
  SpoolWrite::Kind kind;
  uint64_t offset = 0;
  Bytes bytes;
  // After it: what the file holds.
  size_t batches = 0;  // how many of the batches are written
  uint64_t tail = 0;   // the oldest segment in use
  size_t acked = 0;    // how many batches are acknowledged
};

// Fills a spool, and keeps what it did.
class Recorder {
 public:
  Recorder(const Superblock& recovered, const LogId& log,
           SpoolConfig::Full full = SpoolConfig::Full::kRefuse)
      : spool({geometry(), full, 1u << 20}, recovered, log, kBoot, {"a", "b"}), log_(log) {}

  bool append(sim::Random& random, std::vector<Batch>& batches, uint64_t lines) {
    const auto source = static_cast<uint16_t>(random.below(2));
    BatchBuilder builder(source, marks_[source]);
    for (uint64_t i = 0; i < lines; ++i) {
      const std::string text = line_of(log_, source, builder.mark().seq);
      builder.add_line({1000 + i, {}, std::as_bytes(std::span(text))});
    }
    PendingBatch pending{source, marks_[source], builder.mark(), builder.finish()};
    const size_t size = pending.bytes.size();
    if (!spool.append(pending, 5)) return false;
    const uint64_t position = spool.appended_position() - size;
    const uint64_t offset = spool.geometry().offset_of(position);
    batches.push_back({log_, source, pending.first.seq, pending.end.seq, offset, offset + size,
                       position, pending.end});
    marks_[source] = pending.end;
    return true;
  }
  void flush(Bytes& image, std::vector<Write>* trace, const std::vector<Batch>& batches,
             size_t acked = 0) {
    while (const auto write = spool.next_write()) {
      Write one{write->kind, write->offset, {}, 0, spool.tail(), acked};
      if (write->kind == SpoolWrite::Kind::kSync) {
        spool.synced();
      } else {
        one.bytes.assign(write->bytes.begin(), write->bytes.end());
        std::copy(one.bytes.begin(), one.bytes.end(),
                  image.begin() + static_cast<ptrdiff_t>(one.offset));
        spool.written(one.bytes.size());
      }
      for (const Batch& batch : batches) {
        const uint64_t end = batch.position + (batch.end_offset - batch.begin_offset);
        if (end <= spool.written_position()) ++one.batches;
      }
      if (trace != nullptr) trace->push_back(std::move(one));
    }
  }

  Spool spool;

 private:
  LogId log_;
  Mark marks_[2];
};

// Every line is the right one, in order, and with what is counted as lost nothing is missing.
void judge(const Drained& drained) {
  ASSERT_EQ(drained.fault, StreamFault::kNone) << describe(drained.fault);
  ASSERT_TRUE(drained.complete);
  for (const DrainedLine& line : drained.lines) {
    ASSERT_EQ(line.text, line_of(line.log, line.source, line.seq));
  }
  for (const LogAccount& log : drained.accounts) {
    for (const SourceAccount& source : log.sources) {
      ASSERT_TRUE(source.balanced());
      ASSERT_EQ(source.unaccounted, Tally{});
    }
  }
}

std::set<std::pair<uint64_t, uint64_t>> lines_of(const Drained& drained, uint16_t source) {
  std::set<std::pair<uint64_t, uint64_t>> lines;
  for (const DrainedLine& line : drained.lines) {
    if (line.source == source) lines.insert({line.log.low, line.seq});
  }
  return lines;
}

void expect_delivered(const Drained& drained, std::span<const Batch> batches) {
  const std::set<std::pair<uint64_t, uint64_t>> lines[2] = {lines_of(drained, 0),
                                                            lines_of(drained, 1)};
  for (const Batch& batch : batches) {
    for (uint64_t seq = batch.first; seq < batch.end; ++seq) {
      ASSERT_TRUE(lines[batch.source].contains({batch.log.low, seq}))
          << "log " << batch.log.low << " source " << batch.source << " number " << seq;
    }
  }
}

Tally corrupt(const Drained& drained) {
  Tally sum;
  for (const LogAccount& log : drained.accounts) {
    for (const SourceAccount& source : log.sources) {
      const Tally& one = source.dropped[static_cast<size_t>(DropReason::kCorrupt)];
      sum.add(one.lines, one.bytes);
    }
  }
  return sum;
}

TEST(LogSpool, GeometryIsJudged) {
  EXPECT_FALSE(spool_geometry(0, kSegment));
  EXPECT_FALSE(spool_geometry(kSuperblockArea + 3 * kSegment, kSegment)) << "three segments";
  EXPECT_TRUE(spool_geometry(kSuperblockArea + 4 * kSegment, kSegment));
  EXPECT_FALSE(spool_geometry(1u << 30, kLeastSegmentSize - 4096));
  EXPECT_FALSE(spool_geometry(1u << 30, kSegment + 1));
  EXPECT_FALSE(spool_geometry(uint64_t{1} << 40, kMostSegmentSize + 4096));
  EXPECT_FALSE(spool_geometry(kMaxNumber, kSegment));
}

TEST(LogSpool, SuperblocksAndHeadersComeBackAndNoChangedOne) {
  Superblock superblock;
  superblock.geometry = geometry();
  superblock.generation = 5;
  superblock.tail = 7;
  superblock.next = 10;
  superblock.acked_position = 7 * kSegment + 9000;
  superblock.acked = std::vector<Mark>(kMaxSources, Mark{1, 2});
  for (uint64_t i = 0; i < kMaxSpoolLogs; ++i) {
    superblock.logs.push_back({{i, 1}, kBoot, 8, std::vector<Mark>(kMaxSources, Mark{i, i})});
  }
  Bytes bytes = encode(superblock);
  EXPECT_LE(bytes.size(), kSuperblockSize);
  EXPECT_EQ(decode_superblock(bytes), superblock);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] ^= std::byte{1};
    ASSERT_FALSE(decode_superblock(bytes)) << i;
    bytes[i] ^= std::byte{1};
  }
  SegmentHeader header;
  header.index = 3;
  header.log = kFirst;
  header.time = 99;
  header.sources.assign(kMaxSources, {std::string(kMaxName, 'n'), {3, 4}});
  header.previous = kSecond;
  header.previous_marks.assign(kMaxSources, {5, 6});
  bytes = encode(header);
  EXPECT_EQ(bytes.size(), kSegmentHeaderSize);
  EXPECT_EQ(decode_segment_header(bytes), header);
  const size_t used = load_le<uint32_t>(bytes.data() + 4);
  for (size_t i = 0; i < used; ++i) {
    bytes[i] ^= std::byte{1};
    ASSERT_FALSE(decode_segment_header(bytes)) << i;
    bytes[i] ^= std::byte{1};
  }
}

// Two runs, acknowledgements, syncs, the ring going round; the file as it is behind each write, and
// behind each sector of each write.
TEST(LogSpool, ATraceCutAtEveryWriteAndTornAtEverySectorIsRecovered) {
  sim::Random random(7);
  Bytes image(geometry().file_size());
  std::vector<Write> trace;
  std::vector<Batch> batches;
  size_t acked = 0;
  // The first half of what is there; all of it is of the first log.
  const auto acknowledge = [&](Spool& spool) {
    acked += (batches.size() - acked) / 2;
    std::vector<Mark> marks(2);
    for (size_t b = 0; b < acked; ++b) marks[batches[b].source] = batches[b].mark;
    spool.acknowledge(batches[acked].position, marks);
  };
  Superblock state = *recover(image, geometry());
  for (const LogId& log : {kFirst, kSecond}) {
    Recorder recorder(state, log);
    for (int i = 0; i < (log == kFirst ? 110 : 20); ++i) {
      const bool full = !recorder.append(random, batches, random.between(1, 25));
      if (random.chance(0.1)) recorder.spool.request_sync();
      if (full || random.chance(0.7)) recorder.flush(image, &trace, batches, acked);
      if (full) acknowledge(recorder.spool);
    }
    if (log == kFirst) acknowledge(recorder.spool);
    recorder.spool.request_sync();
    recorder.flush(image, &trace, batches, acked);
    state = *recover(image, geometry());
  }
  ASSERT_GT(trace.size(), 30u);
  ASSERT_GT(acked, 5u);
  ASSERT_EQ(state.logs.size(), 2u);

  Bytes now(geometry().file_size());
  size_t before = 0;
  size_t cases = 0;
  for (const Write& write : trace) {
    if (write.kind == SpoolWrite::Kind::kSync) continue;
    // Torn: the sectors up to one are written. What was whole before it still is.
    Bytes torn = now;
    for (size_t at = 0; at < write.bytes.size();) {
      const uint64_t place = write.offset + at;
      const size_t size = std::min<size_t>(512 - place % 512, write.bytes.size() - at);
      std::copy_n(write.bytes.begin() + static_cast<ptrdiff_t>(at), size,
                  torn.begin() + static_cast<ptrdiff_t>(place));
      at += size;
      Bytes copy = torn;
      const auto recovered = recover(copy, geometry());
      ASSERT_TRUE(recovered);
      const Drained drained = drain(copy, geometry(), *recovered);
      ASSERT_NO_FATAL_FAILURE(judge(drained)) << "case " << cases;
      ASSERT_EQ(corrupt(drained), Tally{}) << "case " << cases;
      const size_t whole = at == write.bytes.size() ? write.batches : before;
      const size_t from = std::min(write.acked, whole);
      ASSERT_NO_FATAL_FAILURE(
          expect_delivered(drained, std::span(batches).subspan(from, whole - from)))
          << "case " << cases;
      ++cases;
    }
    now = torn;
    before = write.batches;
  }
  EXPECT_GT(cases, 500u);
  EXPECT_TRUE(now == image);
}

struct Filled {
  Bytes image = Bytes(geometry().file_size());
  std::vector<Batch> batches;
  std::map<std::pair<uint64_t, uint16_t>, uint64_t> numbers;
};

// Two logs, all written and synced.
Filled filled() {
  Filled filled;
  sim::Random random(3);
  Superblock state = *recover(filled.image, geometry());
  for (const LogId& log : {kFirst, kSecond}) {
    Recorder recorder(state, log);
    for (int i = 0; i < 15; ++i) recorder.append(random, filled.batches, random.between(1, 40));
    recorder.spool.request_sync();
    recorder.flush(filled.image, nullptr, {});
    state = *recover(filled.image, geometry());
  }
  for (const Batch& batch : filled.batches) {
    filled.numbers[{batch.log.low, batch.source}] = batch.end;
  }
  return filled;
}

TEST(LogSpool, AFlippedBitCostsItsBatchAndIsCountedExactly) {
  const Filled good = filled();
  sim::Random random(5);
  size_t in_batches = 0;
  size_t in_headers = 0;
  for (int i = 0; i < 300; ++i) {
    Bytes image = good.image;
    const Batch& near = random.pick(good.batches);
    uint64_t offset = near.begin_offset + random.below(near.end_offset - near.begin_offset);
    if (i % 10 == 0) {
      offset = kSuperblockArea + random.below(2) * kSegment + random.below(64);
    }
    image[offset] ^= static_cast<std::byte>(1u << random.below(8));
    const auto recovered = recover(image, geometry());
    ASSERT_TRUE(recovered);
    const Drained drained = drain(image, geometry(), *recovered);
    ASSERT_NO_FATAL_FAILURE(judge(drained)) << "offset " << offset;
    for (const LogAccount& log : drained.accounts) {
      for (uint16_t s = 0; s < 2 && log.id.low != ~0ull; ++s) {
        EXPECT_EQ(log.sources[s].next.seq, (good.numbers.at({log.id.low, s})));
      }
    }
    Tally expected;
    for (const Batch& batch : good.batches) {
      const bool hit = i % 10 == 0 ? (batch.begin_offset - kSuperblockArea) / kSegment ==
                                         (offset - kSuperblockArea) / kSegment
                                   : batch.begin_offset <= offset && offset < batch.end_offset;
      if (!hit) continue;
      for (uint64_t seq = batch.first; seq < batch.end; ++seq) {
        expected.add(1, line_of(batch.log, batch.source, seq).size());
      }
    }
    ++(i % 10 == 0 ? in_headers : in_batches);
    EXPECT_EQ(corrupt(drained), expected) << "offset " << offset;
    EXPECT_GT(expected.lines, 0u);
  }
  EXPECT_GT(in_batches, 250u);
  EXPECT_GT(in_headers, 25u);
}

TEST(LogSpool, WithoutSuperblocksTheHeadersTellWhatIsThere) {
  Filled good = filled();
  for (const size_t which : {1u, 2u, 3u}) {
    Bytes image = good.image;
    if (which & 1) image[100] ^= std::byte{1};
    if (which & 2) image[kSuperblockSize + 100] ^= std::byte{1};
    const auto recovered = recover(image, geometry());
    ASSERT_TRUE(recovered);
    const Drained drained = drain(image, geometry(), *recovered);
    ASSERT_NO_FATAL_FAILURE(judge(drained));
    EXPECT_EQ(corrupt(drained), Tally{});
    expect_delivered(drained, good.batches);
  }
}

TEST(LogSpool, AFileOfAnotherGeometryIsNotTouched) {
  const Filled good = filled();
  EXPECT_FALSE(recover(good.image, geometry(kSegments + 1)));
}

TEST(LogSpool, WhenFullItRefusesOrGivesUpTheOldestSegment) {
  for (const auto full : {SpoolConfig::Full::kRefuse, SpoolConfig::Full::kDropOldest}) {
    Bytes image(geometry().file_size());
    sim::Random random(2);
    std::vector<Batch> batches;
    Recorder recorder(*recover(image, geometry()), kFirst, full);
    int appended = 0;
    for (; appended < 200; ++appended) {
      if (!recorder.append(random, batches, 20)) break;
      recorder.flush(image, nullptr, {});
    }
    const auto recovered = recover(image, geometry());
    ASSERT_TRUE(recovered);
    const Drained drained = drain(image, geometry(), *recovered);
    ASSERT_NO_FATAL_FAILURE(judge(drained));
    uint64_t oldest = 0;
    for (const SourceAccount& source : drained.accounts.front().sources) {
      oldest += source.dropped[static_cast<size_t>(DropReason::kOldest)].lines;
    }
    EXPECT_EQ(corrupt(drained), Tally{});
    if (full == SpoolConfig::Full::kRefuse) {
      EXPECT_LT(appended, 200);
      EXPECT_EQ(oldest, 0u);
      expect_delivered(drained, batches);
    } else {
      EXPECT_EQ(appended, 200);
      EXPECT_GT(recorder.spool.segments_dropped(), 5u);
      EXPECT_EQ(drained.lines.size() + oldest, 200u * 20);
      EXPECT_GT(drained.lines.size(), 500u) << "three segments are kept";
      expect_delivered(drained, std::span(batches).last(20));
    }
  }
}

TEST(LogSpool, AStartReadsTheSameWhateverTheBacklog) {
  size_t least = SIZE_MAX;
  size_t most = 0;
  for (const uint64_t segments : {4u, 40u, 400u}) {
    const SpoolGeometry big = geometry(segments);
    Bytes image(big.file_size());
    Spool spool({big, SpoolConfig::Full::kRefuse, 1u << 20}, *recover(image, big), kFirst, kBoot,
                {"a"});
    Mark mark;
    for (;;) {
      BatchBuilder builder(0, mark);
      const Bytes line(50000);
      builder.add_line({1, {}, line});
      PendingBatch batch{0, mark, builder.mark(), builder.finish()};
      if (!spool.append(batch, 1)) break;
      mark = batch.end;
      while (const auto write = spool.next_write()) {
        std::copy(write->bytes.begin(), write->bytes.end(),
                  image.begin() + static_cast<ptrdiff_t>(write->offset));
        spool.written(write->bytes.size());
      }
    }
    EXPECT_EQ(mark.seq, segments);
    size_t bytes = 0;
    EXPECT_EQ(recover(image, big, &bytes)->next, segments);
    least = std::min(least, bytes);
    most = std::max(most, bytes);
  }
  EXPECT_EQ(least, most);
  EXPECT_LT(most, 256u << 10);
}

TEST(LogSpool, AShortOrFailedWriteIsAskedForAgain) {
  Bytes image(geometry().file_size());
  sim::Random random(4);
  std::vector<Batch> batches;
  Recorder recorder(*recover(image, geometry()), kFirst);
  for (int i = 0; i < 20; ++i) recorder.append(random, batches, 10);
  while (const auto write = recorder.spool.next_write()) {
    EXPECT_FALSE(recorder.spool.next_write()) << "one at a time";
    const size_t size = random.below(2) == 0 ? 0 : random.below(write->bytes.size() + 1);
    std::copy_n(write->bytes.begin(), size, image.begin() + static_cast<ptrdiff_t>(write->offset));
    recorder.spool.written(size);
  }
  const Drained drained = drain(image, geometry(), *recover(image, geometry()));
  ASSERT_NO_FATAL_FAILURE(judge(drained));
  expect_delivered(drained, batches);
}

TEST(LogSpool, ItHoldsABoundedNumberOfLogs) {
  Bytes image(geometry(64).file_size());
  size_t begun = 0;
  for (uint64_t start = 1; start <= 40; ++start) {
    const auto recovered = recover(image, geometry(64));
    ASSERT_TRUE(recovered);
    ASSERT_LE(recovered->logs.size(), kMaxSpoolLogs);
    Spool spool({geometry(64), SpoolConfig::Full::kRefuse, 1u << 20}, *recovered,
                LogId{start, start}, kBoot, {"a"});
    BatchBuilder builder(0, {});
    builder.add_line({1, {}, {}});
    PendingBatch batch{0, {}, {1, 0}, builder.finish()};
    if (spool.append(batch, 1)) ++begun;
    spool.request_sync();
    while (const auto write = spool.next_write()) {
      if (write->kind == SpoolWrite::Kind::kSync) {
        spool.synced();
        continue;
      }
      std::copy(write->bytes.begin(), write->bytes.end(),
                image.begin() + static_cast<ptrdiff_t>(write->offset));
      spool.written(write->bytes.size());
    }
  }
  EXPECT_EQ(begun, kMaxSpoolLogs);
  const Drained drained = drain(image, geometry(64), *recover(image, geometry(64)));
  EXPECT_TRUE(drained.complete);
  EXPECT_EQ(drained.lines.size(), kMaxSpoolLogs);
}

// The receiver has all that is stored, and its acknowledgement was lost with the stream. No batch
// is sent on the next one.
TEST(LogSpool, WhatTheReceiverHadBeforeAStreamBeganIsAcknowledged) {
  Bytes image(geometry().file_size());
  ShipperConfig config;
  config.buffer.memory = 64u << 10;
  Shipper shipper(config, {{"a"}, {"b"}}, kFirst, kBoot,
                  Shipper::SpoolStart{{geometry()}, *recover(image, geometry())});
  Receiver receiver(4);
  std::vector<Received> found;
  Instant now(1);
  const auto run = [&] {
    for (int i = 0; i < 50; ++i) {
      shipper.pump(now += std::chrono::milliseconds(10), 1);
      use_image(shipper, image);
      ASSERT_EQ(receiver.feed(std::exchange(shipper.out(), {}), found), StreamFault::kNone);
      ASSERT_EQ(shipper.feed(std::exchange(receiver.out(), {})), StreamFault::kNone);
    }
  };
  const Bytes line(10);
  shipper.buffer().offer(0, {1, {}, line}, line.size(), now);
  shipper.buffer().offer(1, {1, {}, line}, line.size(), now);
  shipper.connected(now);
  run();
  ASSERT_EQ(receiver.log()->sources[1].next.seq, 1u);
  EXPECT_EQ(shipper.acknowledged(0), 0u);

  shipper.disconnected();
  receiver.lost();
  shipper.connected(now);
  run();
  EXPECT_EQ(shipper.acknowledged(0), 0u) << "the receiver has them, and no more";
  // A part, of which nothing tells how many lines it has.
  receiver.acknowledge(receiver.log()->position - 1, AckLevel::kSink);
  run();
  EXPECT_EQ(shipper.acknowledged(1), 0u);
  shipper.disconnected();
  receiver.lost();
  shipper.connected(now);
  Receiver other(4);
  shipper.pump(now, 1);
  if (const auto read = shipper.next_read()) shipper.read(read_image(image, *read));
  shipper.pump(now, 1);
  ASSERT_EQ(other.feed(std::exchange(shipper.out(), {}), found), StreamFault::kNone);
  ASSERT_EQ(shipper.feed(std::exchange(other.out(), {})), StreamFault::kNone);
  found.clear();
  for (int i = 0; i < 10; ++i) {
    shipper.pump(now, 1);
    if (const auto read = shipper.next_read()) shipper.read(read_image(image, *read));
    ASSERT_EQ(other.feed(std::exchange(shipper.out(), {}), found), StreamFault::kNone);
  }
  EXPECT_EQ(found.size(), 2u) << "a receiver that has no account gets them";
  for (const Received& each : found) EXPECT_EQ(each.kind, Received::Kind::kLine);

  shipper.disconnected();
  shipper.connected(now);
  run();
  receiver.acknowledge(receiver.log()->position, AckLevel::kSink);
  run();
  EXPECT_EQ(shipper.acknowledged(0), 1u);
  EXPECT_EQ(shipper.acknowledged(1), 1u);
}

// The end of a log was lost with the power, and its receiver has more of the log than the spool. It
// acknowledges that, the tail moves to the next log, and the stream is cut before it is told what
// was lost: that is no segment which was given up.
TEST(LogSpool, WhatWasLostWithThePowerIsCorruptAlsoOnALaterStream) {
  Bytes image(geometry().file_size());
  Superblock state;
  state.geometry = geometry();
  state.next = 1;
  state.logs = {{kFirst, kBoot, 0, {{5, 50}}}};
  state.acked = {{}};
  SegmentHeader header;
  header.log = kFirst;
  header.boot = kBoot;
  header.sources = {{"a", {}}};
  const Bytes encoded = encode(header);
  std::copy(encoded.begin(), encoded.end(),
            image.begin() + static_cast<ptrdiff_t>(geometry().offset_of(0)));
  ShipperConfig config;
  config.buffer.memory = 64u << 10;
  Shipper shipper(config, {{"a"}}, kSecond, kBoot, Shipper::SpoolStart{{geometry()}, state});
  Receiver receiver(4);
  LogAccount account{kFirst, kBoot, kSegment + 9000, false, {}};
  SourceAccount& source = account.sources.emplace_back();
  source.name = "a";
  source.next = source.known = {3, 30};
  source.delivered = {3, 30};
  receiver.restore({account});
  std::vector<Received> found;
  Instant now(1);
  const auto pump = [&] {
    for (int i = 0; i < 50; ++i) {
      shipper.pump(now += std::chrono::milliseconds(10), 1);
      use_image(shipper, image);
    }
  };
  const auto feed = [&] {
    ASSERT_EQ(receiver.feed(std::exchange(shipper.out(), {}), found), StreamFault::kNone);
    ASSERT_EQ(shipper.feed(std::exchange(receiver.out(), {})), StreamFault::kNone);
  };
  const Bytes line(10);
  shipper.buffer().offer(0, {1, {}, line}, line.size(), now);
  shipper.connected(now);
  pump();
  feed();
  receiver.acknowledge(receiver.log()->position, AckLevel::kSink);
  ASSERT_EQ(shipper.feed(std::exchange(receiver.out(), {})), StreamFault::kNone);
  ASSERT_EQ(shipper.spool()->tail(), 1u);
  pump();

  shipper.disconnected();
  receiver.lost();
  shipper.out().clear();
  shipper.connected(now);
  for (int round = 0; round < 3; ++round) {
    pump();
    feed();
  }
  ASSERT_EQ(receiver.log()->id, kFirst);
  EXPECT_EQ(found.back().kind, Received::Kind::kFinal);
  const SourceAccount& after = receiver.log()->sources[0];
  EXPECT_EQ(after.dropped[static_cast<size_t>(DropReason::kCorrupt)], (Tally{2, 20}));
  EXPECT_EQ(after.dropped[static_cast<size_t>(DropReason::kOldest)], Tally{});
  EXPECT_EQ(after.unaccounted, Tally{});
}

}  // namespace
}  // namespace virtproxy::logs::test
