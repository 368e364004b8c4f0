// Lines between sources and log: who loses, how much, and that it is counted.
#include <gtest/gtest.h>

#include <map>

#include "core/logs/buffer.h"
#include "tests/sim/random.h"

namespace virtproxy::logs::test {

using Bytes = std::vector<std::byte>;

namespace {

using namespace std::chrono_literals;
using Traffic = Buffer::Traffic;

constexpr size_t kMemory = 64u << 10;

SourceConfig source(Policy full, Duration block_for = 1s) { return {"source", full, block_for}; }

BufferConfig config(size_t batch = 4096) {
  BufferConfig config;
  config.memory = kMemory;
  config.max_line = 4000;
  config.batch_size = batch;
  return config;
}

// Everything that a buffer gives, decoded: by source the numbers of lines, and what was dropped.
struct Taken {
  struct Of {
    Mark next;
    std::vector<std::pair<uint64_t, std::string>> lines;
    std::vector<DropRecord> drops;
    std::array<Tally, kDropReasons> dropped{};
  };
  std::map<uint16_t, Of> sources;
  size_t batches = 0;

  void take(PendingBatch batch) {
    ++batches;
    Of& of = sources[batch.source];
    EXPECT_EQ(batch.first, of.next) << "batches of a source follow one another";
    const LogId log{1, 1};
    seal_batch(batch.bytes, log, check_key(log), 0);
    BatchHeader header;
    BatchExtent extent;
    ASSERT_EQ(open_batch(batch.bytes, check_key(log), header, extent), BatchFault::kNone);
    EXPECT_EQ(header.source, batch.source);
    EXPECT_EQ(header.first, batch.first);
    EXPECT_EQ(extent.end, batch.end);
    of.next = batch.end;
    RecordReader reader(batch.bytes, header);
    Record record;
    while (reader.next(record) == RecordReader::Step::kRecord) {
      if (record.kind == Record::Kind::kLine) {
        of.lines.push_back(
            {record.seq,
             {reinterpret_cast<const char*>(record.line.bytes.data()), record.line.bytes.size()}});
      } else {
        of.drops.push_back(record.drop);
        of.dropped[static_cast<size_t>(record.drop.reason)].add(record.drop.count,
                                                                record.drop.bytes);
      }
    }
  }
  void all(Buffer& buffer, Instant now) {
    while (auto batch = buffer.take(now, Traffic::kLast)) take(std::move(*batch));
  }
  Tally& of(uint16_t s, DropReason reason) {
    return sources[s].dropped[static_cast<size_t>(reason)];
  }
};

Buffer::Admission put(Buffer& buffer, uint16_t s, const std::string& text, Instant now = 1s) {
  return buffer.offer(s, {1000, {}, std::as_bytes(std::span(text))}, text.size(), now);
}

// A line of 100 bytes that begins with its number.
std::string line(uint64_t number) {
  std::string text = std::to_string(number) + " ";
  text.resize(100, '.');
  return text;
}

TEST(LogBuffer, LinesComeOutAsTheyCameIn) {
  Buffer buffer(config(), {source(Policy::kDropNewest), source(Policy::kDropNewest)});
  for (uint64_t i = 0; i < 100; ++i) put(buffer, static_cast<uint16_t>(i % 2), line(i));
  put(buffer, 0, "");
  Taken taken;
  taken.all(buffer, 1s);
  ASSERT_EQ(taken.sources[0].lines.size(), 51u);
  for (uint64_t i = 0; i < 100; ++i) {
    const auto& [seq, text] = taken.sources[static_cast<uint16_t>(i % 2)].lines[i / 2];
    EXPECT_EQ(seq, i / 2);
    EXPECT_EQ(text, line(i));
  }
  EXPECT_EQ(buffer.used(), 0u);
  EXPECT_TRUE(buffer.empty());
}

TEST(LogBuffer, ABatchIsDueWhenItIsFullOrOld) {
  Buffer buffer(config(1024), {source(Policy::kDropNewest)});
  EXPECT_FALSE(buffer.due(Traffic::kBusy));
  put(buffer, 0, line(0), 10s);
  EXPECT_EQ(buffer.due(Traffic::kBusy), 10s + 5ms);
  EXPECT_FALSE(buffer.take(10s + 4ms, Traffic::kBusy));
  EXPECT_TRUE(buffer.take(10s + 5ms, Traffic::kBusy));
  EXPECT_FALSE(buffer.due(Traffic::kBusy));
  for (uint64_t i = 0; i < 10; ++i) put(buffer, 0, line(i), 20s);
  EXPECT_LE(*buffer.due(Traffic::kBusy), 20s);
  EXPECT_TRUE(buffer.take(20s, Traffic::kBusy));
  EXPECT_TRUE(buffer.take(20s, Traffic::kIdle));
  // What is dropped is told of in the same time.
  buffer.drop(0, {DropReason::kKernelOverflow, 0, 3, 0, 5, 5}, 30s);
  EXPECT_EQ(buffer.due(Traffic::kBusy), 30s + 5ms);
  const auto batch = buffer.take(30s + 5ms, Traffic::kBusy);
  ASSERT_TRUE(batch);
  EXPECT_EQ(batch->end.seq - batch->first.seq, 3u);
}

TEST(LogBuffer, ALineByItselfIsSentAtOnceAndManyAreSentTogether) {
  Buffer buffer(config(1u << 20), {source(Policy::kDropNewest), source(Policy::kDropNewest)});
  put(buffer, 0, line(0), 10s);
  EXPECT_EQ(buffer.due(Traffic::kIdle), Instant::zero());
  EXPECT_TRUE(buffer.take(10s, Traffic::kIdle));
  // The next one waits for those that come within the interval, which is the source's own.
  put(buffer, 0, line(1), 10s + 400us);
  put(buffer, 1, line(2), 10s + 400us);
  const auto other = buffer.take(10s + 400us, Traffic::kIdle);
  ASSERT_TRUE(other);
  EXPECT_EQ(other->source, 1);
  EXPECT_FALSE(buffer.take(10s + 400us, Traffic::kIdle));
  put(buffer, 0, line(3), 10s + 600us);
  EXPECT_EQ(buffer.due(Traffic::kIdle), 10s + 1ms);
  EXPECT_EQ(buffer.due(Traffic::kBusy), 10s + 5400us);
  const auto batch = buffer.take(10s + 1ms, Traffic::kIdle);
  ASSERT_TRUE(batch);
  EXPECT_EQ(batch->end.seq - batch->first.seq, 2u);
  // A log that ends waits for nothing.
  put(buffer, 0, line(4), 10s + 1ms);
  EXPECT_FALSE(buffer.take(10s + 1ms, Traffic::kIdle));
  EXPECT_TRUE(buffer.take(10s + 1ms, Traffic::kLast));
  EXPECT_TRUE(buffer.empty());
}

// Where lines come so fast that the processor is what they lack, fewer processes take turns for
// them: what a source has is given less often, but never with more than a quarter of the memory
// waiting.
TEST(LogBuffer, FastSourcesGiveLessOften) {
  BufferConfig fast = config(64u << 10);
  fast.memory = 4u << 20;
  Buffer buffer(fast, {source(Policy::kDropNewest)});
  const std::string text(1000, 'x');
  const auto give = [&](Instant now) {
    size_t batches = 0;
    while (buffer.take(now, Traffic::kIdle)) ++batches;
    return batches;
  };
  // 50 bytes in each microsecond.
  Instant now = 10s;
  for (; now < 10s + 10ms; now += 20us) {
    put(buffer, 0, text, now);
    give(now);
  }
  const Instant due = *buffer.due(Traffic::kIdle);
  for (; now < due; now += 20us) {
    put(buffer, 0, text, now);
    EXPECT_EQ(give(now), 0u) << "closed ones wait, too";
    EXPECT_EQ(buffer.due(Traffic::kIdle), due);
  }
  EXPECT_GT(give(due), 1u);
  EXPECT_TRUE(buffer.empty());
  put(buffer, 0, text, due);
  EXPECT_EQ(buffer.due(Traffic::kIdle), due + fast.busy_interval);
  // What else there is to send is no reason to wait, and neither is an end.
  for (int i = 0; i < 100; ++i) put(buffer, 0, text, due);
  EXPECT_TRUE(buffer.take(due, Traffic::kBusy));
  for (int i = 0; i < 100; ++i) put(buffer, 0, text, due);
  EXPECT_TRUE(buffer.take(due, Traffic::kLast));
  while (buffer.take(due, Traffic::kLast)) continue;
  // All at once: eight batches of the full size are as many as wait.
  while (give(due) == 0) put(buffer, 0, text, due);
  EXPECT_TRUE(buffer.empty());
  // Slower ones are given as soon as before.
  for (now = due; now < due + 20ms; now += 200us) {
    put(buffer, 0, text, now);
    give(now);
  }
  put(buffer, 0, text, now);
  EXPECT_LE(*buffer.due(Traffic::kIdle), now + fast.idle_interval);
}

TEST(LogBuffer, DropNewestKeepsTheBeginningAndDropOldestTheEnd) {
  constexpr uint64_t kLines = 2000;
  for (const Policy policy : {Policy::kDropNewest, Policy::kDropOldest}) {
    Buffer buffer(config(), {source(policy)});
    for (uint64_t i = 0; i < kLines; ++i) {
      EXPECT_EQ(put(buffer, 0, line(i)), Buffer::Admission::kTaken);
      ASSERT_LE(buffer.used(), kMemory);
    }
    const auto reason = policy == Policy::kDropNewest ? DropReason::kNewest : DropReason::kOldest;
    const Tally counted = buffer.dropped(0)[static_cast<size_t>(reason)];
    Taken taken;
    taken.all(buffer, 1s);
    const auto& of = taken.sources[0];
    EXPECT_EQ(of.next, (Mark{kLines, kLines * 100}));
    EXPECT_EQ(taken.of(0, reason), counted);
    EXPECT_EQ(of.lines.size() + counted.lines, kLines);
    EXPECT_GT(of.lines.size(), 400u) << "most of the memory holds lines";
    ASSERT_EQ(of.drops.size(), 1u) << "one record for all";
    EXPECT_EQ(of.lines.front().first, policy == Policy::kDropNewest ? 0 : counted.lines);
    for (const auto& [seq, text] : of.lines) EXPECT_EQ(text, line(seq));
  }
}

TEST(LogBuffer, ABlockedSourceWaitsForItsBudgetAndThenLoses) {
  Buffer buffer(config(), {source(Policy::kBlock, 100ms), source(Policy::kDropNewest)});
  uint64_t taken = 0;
  while (put(buffer, 0, line(taken), 1s) == Buffer::Admission::kTaken) ++taken;
  EXPECT_GT(taken, 300u);
  EXPECT_LE(buffer.used(), kMemory / 4 * 3) << "the rest is for those that cannot wait";
  EXPECT_EQ(buffer.blocked_until(0), 1s + 100ms);
  EXPECT_FALSE(buffer.unblocked(0));
  EXPECT_EQ(put(buffer, 1, line(0), 1s), Buffer::Admission::kTaken);
  EXPECT_EQ(put(buffer, 0, line(taken), 1s + 99ms), Buffer::Admission::kBlocked);
  EXPECT_EQ(buffer.mark(0).seq, taken) << "a blocked line has no number";
  // From then on it does not wait any more, and loses when all memory is used.
  uint64_t more = 0;
  for (; more < 1000; ++more) {
    ASSERT_EQ(put(buffer, 0, line(taken + more), 1s + 100ms), Buffer::Admission::kTaken);
  }
  EXPECT_FALSE(buffer.blocked_until(0));
  Taken all;
  all.all(buffer, 2s);
  EXPECT_EQ(all.sources[0].next.seq, taken + more);
  EXPECT_GT(all.of(0, DropReason::kNewest).lines, 0u);
  EXPECT_EQ(all.sources[0].lines.size() + all.of(0, DropReason::kNewest).lines, taken + more);
  EXPECT_EQ(all.of(1, DropReason::kNewest).lines, 0u);
  // With memory free again, it has its budget back.
  while (put(buffer, 0, line(0), 3s) == Buffer::Admission::kTaken) {
  }
  EXPECT_EQ(buffer.blocked_until(0), 3s + 100ms);
}

TEST(LogBuffer, ABlockedSourceIsTakenAgainWhenThereIsRoom) {
  Buffer buffer(config(), {source(Policy::kBlock, 100ms)});
  while (put(buffer, 0, line(0), 1s) == Buffer::Admission::kTaken) {
  }
  ASSERT_FALSE(buffer.unblocked(0));
  Taken taken;
  while (!buffer.unblocked(0)) taken.take(*buffer.take(1s + 40ms, Traffic::kLast));
  EXPECT_EQ(put(buffer, 0, line(0), 1s + 40ms), Buffer::Admission::kTaken);
  EXPECT_FALSE(buffer.blocked_until(0));
  // 40 ms of the budget are used, unless half of the memory is free.
  while (put(buffer, 0, line(0), 2s) == Buffer::Admission::kTaken) {
  }
  EXPECT_EQ(buffer.blocked_until(0), 2s + 60ms);
}

TEST(LogBuffer, AFloodDoesNotPushOutAQuietSource) {
  for (const Policy flood : {Policy::kDropNewest, Policy::kDropOldest}) {
    for (const Policy quiet : {Policy::kDropNewest, Policy::kDropOldest, Policy::kBlock}) {
      Buffer buffer(config(), {source(flood), source(quiet)});
      uint64_t quiet_lines = 0;
      for (uint64_t i = 0; i < 20000; ++i) {
        put(buffer, 0, line(i));
        if (i % 200 == 0) {
          ASSERT_EQ(put(buffer, 1, line(i)), Buffer::Admission::kTaken);
          ++quiet_lines;
        }
        ASSERT_LE(buffer.used(), kMemory);
      }
      Taken taken;
      taken.all(buffer, 1s);
      EXPECT_EQ(taken.of(1, DropReason::kNewest).lines, 0u);
      EXPECT_EQ(taken.of(1, DropReason::kOldest).lines, 0u);
      EXPECT_EQ(taken.sources[1].lines.size(), quiet_lines);
      EXPECT_EQ(taken.sources[0].next.seq, 20000u);
    }
  }
}

TEST(LogBuffer, ALineThatIsTooLargeKeepsItsHead) {
  Buffer buffer(config(), {source(Policy::kDropNewest)});
  put(buffer, 0, std::string(4000, 'a'));
  put(buffer, 0, std::string(4001, 'b'));
  const std::string head(10, 'c');
  buffer.offer(0, {1, {}, std::as_bytes(std::span(head))}, 1u << 30, 1s);
  Taken taken;
  taken.all(buffer, 1s);
  EXPECT_EQ(taken.sources[0].lines.size(), 1u);
  EXPECT_EQ(taken.of(0, DropReason::kTooLarge), (Tally{2, 4001 + (1u << 30)}));
  EXPECT_EQ(taken.sources[0].next, (Mark{3, 8001 + (1u << 30)}));
}

TEST(LogBuffer, ABatchHasABoundedNumberOfRecords) {
  BufferConfig large = config(1u << 20);
  large.memory = 16u << 20;
  Buffer buffer(large, {source(Policy::kDropNewest)});
  for (uint64_t i = 0; i < 3 * kMaxRecords; ++i) {
    put(buffer, 0, "");
    if (i % 5 == 0) buffer.drop(0, {DropReason::kRate, 0, 1, 1, 1, 1}, 1s);
  }
  Taken taken;
  taken.all(buffer, 1s);
  EXPECT_GE(taken.batches, 4u);
  EXPECT_EQ(taken.sources[0].lines.size(), 3 * kMaxRecords);
}

TEST(LogBuffer, WhatIsDroppedAtTheEndIsCountedAsShutdown) {
  Buffer buffer(config(), {source(Policy::kDropNewest), source(Policy::kDropOldest)});
  for (uint64_t i = 0; i < 300; ++i) put(buffer, static_cast<uint16_t>(i % 2), line(i));
  buffer.drop(0, {DropReason::kRate, 0, 7, 70, 1, 2}, 1s);
  buffer.drop_all(1s);
  EXPECT_EQ(buffer.used(), 0u);
  Taken taken;
  taken.all(buffer, 1s);
  EXPECT_EQ(taken.of(0, DropReason::kShutdown).lines, 150u);
  EXPECT_EQ(taken.of(0, DropReason::kRate), (Tally{7, 70}));
  EXPECT_EQ(taken.sources[0].next.seq, 157u);
  EXPECT_EQ(taken.sources[1].next.seq, 150u);
}

// Against a model that only counts: whatever is offered comes out or is counted, by reason.
TEST(LogBuffer, RandomOperationsAddUp) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE(seed);
    sim::Random random(seed);
    std::vector<SourceConfig> sources;
    for (uint64_t i = 0, n = random.between(1, 5); i < n; ++i) {
      sources.push_back(source(static_cast<Policy>(random.below(3)), 10ms));
    }
    Buffer buffer(config(1024u << random.below(4)), sources);
    std::vector<uint64_t> lines(sources.size());
    std::vector<Tally> outside(sources.size());
    Taken taken;
    Instant now = 1s;
    for (int i = 0; i < 4000; ++i) {
      const auto s = static_cast<uint16_t>(random.below(sources.size()));
      const uint64_t what = random.below(100);
      if (what < 80) {
        std::string text = std::to_string(lines[s]) + " ";
        text.resize(std::max<size_t>(text.size(), random.magnitude(1, 5000)), 'x');
        if (put(buffer, s, text, now) == Buffer::Admission::kTaken) ++lines[s];
      } else if (what < 85) {
        const uint64_t count = random.between(1, 9);
        buffer.drop(s, {DropReason::kKernelOverflow, 0, count, count, 1, 1}, now);
        outside[s].add(count, count);
      } else if (what < 92) {
        if (auto batch = buffer.take(now, random.chance(0.5) ? Traffic::kBusy : Traffic::kIdle))
          taken.take(std::move(*batch));
      } else {
        now += Duration(random.below(3'000'000));
      }
      ASSERT_LE(buffer.used(), kMemory);
    }
    taken.all(buffer, now);
    EXPECT_EQ(buffer.used(), 0u);
    for (uint16_t s = 0; s < sources.size(); ++s) {
      const auto& of = taken.sources[s];
      uint64_t dropped = 0;
      for (size_t r = 0; r < kDropReasons; ++r) {
        dropped += of.dropped[r].lines;
        EXPECT_EQ(of.dropped[r], buffer.dropped(s)[r]) << name_of(static_cast<DropReason>(r));
      }
      EXPECT_EQ(of.lines.size() + dropped, lines[s] + outside[s].lines);
      EXPECT_EQ(of.next, buffer.mark(s));
      EXPECT_EQ((Tally{of.next.seq, of.next.bytes}), buffer.received(s));
      EXPECT_EQ(taken.of(s, DropReason::kKernelOverflow), outside[s]);
    }
  }
}

}  // namespace
}  // namespace virtproxy::logs::test
