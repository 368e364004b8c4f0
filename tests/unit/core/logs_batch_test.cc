// Batches and messages: what is written is read, and nothing else is.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "core/logs/batch.h"
#include "core/logs/message.h"
#include "core/logs/varint.h"
#include "core/wire/little_endian.h"
#include "tests/sim/random.h"

namespace virtproxy::logs::test {

using Bytes = std::vector<std::byte>;

namespace {

constexpr LogId kLog{7, 9};
const uint64_t kKey = check_key(kLog);

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

Bytes sealed(BatchBuilder& builder, uint64_t position = 4096) {
  Bytes batch = builder.finish();
  seal_batch(batch, kLog, kKey, position);
  return batch;
}

// Puts the right check under whatever a test has changed.
void check_again(Bytes& batch) {
  seal_batch(batch, {load_le<uint64_t>(batch.data() + 16), 9}, kKey,
             load_le<uint64_t>(batch.data() + 24));
}

BatchFault open(const Bytes& batch) {
  BatchHeader header;
  BatchExtent extent;
  return open_batch(batch, kKey, header, extent);
}

TEST(LogVarint, ItsShortestFormIsTheOnlyOne) {
  for (const uint64_t value :
       {uint64_t{0}, uint64_t{1}, uint64_t{127}, uint64_t{128}, uint64_t{16383}, uint64_t{16384},
        uint64_t{1} << 62, std::numeric_limits<uint64_t>::max()}) {
    std::byte bytes[kMaxVarint];
    const auto size = static_cast<size_t>(put_varint(bytes, value) - bytes);
    std::span<const std::byte> in(bytes, size);
    uint64_t again = 1;
    ASSERT_TRUE(get_varint(in, again));
    EXPECT_EQ(again, value);
    EXPECT_TRUE(in.empty());
    for (size_t cut = 0; cut < size; ++cut) {
      in = std::span<const std::byte>(bytes, cut);
      EXPECT_FALSE(get_varint(in, again));
    }
    EXPECT_EQ(unzigzag(zigzag(value)), value);
  }
  const std::vector<std::vector<int>> bad{
      {0x80, 0x00}, {0xff, 0x80, 0x00}, {255, 255, 255, 255, 255, 255, 255, 255, 255, 2}};
  for (const auto& bytes : bad) {
    Bytes raw;
    for (const int b : bytes) raw.push_back(static_cast<std::byte>(b));
    std::span<const std::byte> in(raw);
    uint64_t value = 0;
    EXPECT_FALSE(get_varint(in, value));
  }
}

TEST(LogBatch, RecordsOfEverySortComeBack) {
  sim::Random random(1);
  for (int round = 0; round < 200; ++round) {
    BatchBuilder builder(static_cast<uint16_t>(random.below(kMaxSources)),
                         {random.below(1u << 30), random.below(1u << 30)});
    const Mark first = builder.mark();
    std::vector<Record> expected;
    std::vector<Bytes> contents;
    contents.reserve(50);
    for (uint64_t i = 0, n = random.between(1, 50); i < n; ++i) {
      Record record;
      record.seq = builder.mark().seq;
      Bytes& content = contents.emplace_back(random.magnitude(0, 3000));
      for (std::byte& b : content) b = static_cast<std::byte>(random.next());
      record.line.time = random.next() >> 1;  // clocks jump
      record.line.bytes = content;
      if (random.chance(0.5)) {
        record.line.credentials = {static_cast<uint32_t>(random.next()),
                                   static_cast<uint32_t>(random.next()), 0};
      }
      if (random.chance(0.2)) {
        record.kind = Record::Kind::kDrop;
        record.drop = {static_cast<DropReason>(random.below(kDropReasons)),
                       record.seq,
                       random.magnitude(1, 1u << 30),
                       random.magnitude(0, 1u << 30),
                       record.line.time,
                       record.line.time + random.magnitude(0, 1u << 30)};
        builder.add_drop(record.drop);
      } else if (random.chance(0.2)) {
        record.kind = Record::Kind::kHead;
        record.full_length = content.size() + random.magnitude(1, 1u << 30);
        builder.add_head(record.line, record.full_length);
      } else {
        builder.add_line(record.line);
      }
      expected.push_back(record);
    }
    const Mark end = builder.mark();
    const Bytes batch = sealed(builder);
    BatchHeader header;
    BatchExtent extent;
    ASSERT_EQ(open_batch(batch, kKey, header, extent), BatchFault::kNone);
    EXPECT_EQ(header.first, first);
    EXPECT_EQ(header.records, expected.size());
    EXPECT_EQ(extent.end, end);
    RecordReader reader(batch, header);
    for (const Record& record : expected) {
      Record again;
      ASSERT_EQ(reader.next(again), RecordReader::Step::kRecord);
      EXPECT_EQ(again.kind, record.kind);
      EXPECT_EQ(again.seq, record.seq);
      if (record.kind == Record::Kind::kDrop) {
        EXPECT_EQ(again.drop, record.drop);
        continue;
      }
      EXPECT_EQ(again.line.time, record.line.time);
      EXPECT_EQ(again.line.credentials, record.line.credentials);
      EXPECT_TRUE(std::ranges::equal(again.line.bytes, record.line.bytes));
      EXPECT_EQ(again.full_length, record.full_length);
    }
    Record none;
    EXPECT_EQ(reader.next(none), RecordReader::Step::kEnd);
    EXPECT_TRUE(builder.empty());
    EXPECT_EQ(builder.mark(), end);
  }
}

TEST(LogBatch, EveryChangedBitIsNoticed) {
  BatchBuilder builder(3, {10, 20});
  builder.add_line({1000, Credentials{1, 2, 3}, bytes_of("a line")});
  builder.add_drop({DropReason::kRate, 0, 5, 50, 1000, 2000});
  Bytes batch = sealed(builder);
  ASSERT_EQ(open(batch), BatchFault::kNone);
  for (size_t i = 0; i < batch.size(); ++i) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      batch[i] ^= static_cast<std::byte>(1u << bit);
      EXPECT_NE(open(batch), BatchFault::kNone) << "byte " << i;
      batch[i] ^= static_cast<std::byte>(1u << bit);
    }
  }
  BatchHeader header;
  BatchExtent extent;
  EXPECT_EQ(open_batch(batch, check_key({7, 10}), header, extent), BatchFault::kCheck)
      << "the check is keyed by all of the log's id";
  for (size_t cut = 0; cut < batch.size(); ++cut) {
    EXPECT_EQ(open(Bytes(batch.begin(), batch.begin() + static_cast<ptrdiff_t>(cut))),
              BatchFault::kShort);
  }
}

TEST(LogBatch, TheNextPlaceForOneIsFound) {
  const auto next = [](std::string_view text) { return next_batch_start(bytes_of(text)); };
  EXPECT_EQ(next("V"), 1u);
  EXPECT_EQ(next("VLB1"), 4u) << "not the one at the front";
  EXPECT_EQ(next("VVLB1."), 1u);
  EXPECT_EQ(next("..VLB2VLB1."), 6u);
  EXPECT_EQ(next("....VLB"), 4u) << "perhaps one";
  EXPECT_EQ(next("....VLBV"), 7u);
  EXPECT_EQ(next("........"), 8u);
}

// A batch with these bytes as its one record, or `count` of them.
Bytes with_records(std::initializer_list<int> bytes, uint32_t count = 1) {
  Bytes batch(kBatchHeaderSize);
  for (const int b : bytes) batch.push_back(static_cast<std::byte>(b));
  store_le(batch.data(), kBatchMagic);
  store_le(batch.data() + 4, static_cast<uint32_t>(bytes.size()));
  store_le(batch.data() + 12, count);
  seal_batch(batch, kLog, kKey, 0);
  return batch;
}

TEST(LogBatch, RecordsThatDoNotAddUpAreRefused) {
  EXPECT_EQ(open(with_records({3, 0x00, 0, 'x'})), BatchFault::kNone);
  EXPECT_EQ(open(with_records({3, 0x00, 0, 'x'}, 2)), BatchFault::kRecords) << "one is missing";
  EXPECT_EQ(open(with_records({3, 0x00, 0, 'x', 2, 0, 0})), BatchFault::kRecords) << "one more";
  EXPECT_EQ(open(with_records({4, 0x00, 0, 'x'})), BatchFault::kRecords) << "longer than the batch";
  EXPECT_EQ(open(with_records({0})), BatchFault::kRecords) << "empty";
  EXPECT_EQ(open(with_records({0x83, 0x00, 0, 0, 0})), BatchFault::kRecords) << "a long varint";
  EXPECT_EQ(open(with_records({1, 0x00})), BatchFault::kRecords) << "no time";
  EXPECT_EQ(open(with_records({3, 0x03, 0, 0})), BatchFault::kRecords) << "an unknown kind";
  EXPECT_EQ(open(with_records({3, 0x83, 0, 0})), BatchFault::kNone) << "one that may be skipped";
  EXPECT_EQ(open(with_records({3, 0x20, 0, 0})), BatchFault::kRecords) << "a reserved bit";
  EXPECT_EQ(open(with_records({4, 0x10, 0, 1, 2})), BatchFault::kRecords) << "credentials cut";
  EXPECT_EQ(open(with_records({9, 0x10, 0, 255, 255, 255, 255, 16, 0, 0})), BatchFault::kRecords)
      << "a pid above 32 bits";
  EXPECT_EQ(open(with_records({4, 0x01, 0, 1, 'x'})), BatchFault::kRecords)
      << "a head as long as its line";
  EXPECT_EQ(open(with_records({4, 0x01, 0, 2, 'x'})), BatchFault::kNone);
  EXPECT_EQ(open(with_records({6, 0x02, 0, 0, 1, 1, 0})), BatchFault::kNone);
  EXPECT_EQ(open(with_records({6, 0x02, 0, 8, 1, 1, 0})), BatchFault::kRecords) << "a reason";
  EXPECT_EQ(open(with_records({6, 0x02, 0, 0, 0, 1, 0})), BatchFault::kRecords) << "a count of 0";
  EXPECT_EQ(open(with_records({7, 0x02, 0, 0, 1, 1, 0, 0})), BatchFault::kRecords) << "a byte more";
  EXPECT_EQ(open(with_records({6, 0x12, 0, 0, 1, 1, 0})), BatchFault::kRecords)
      << "credentials of a drop record";
  // 2^62 numbers in one record
  EXPECT_EQ(open(with_records({14, 2, 0, 0, 128, 128, 128, 128, 128, 128, 128, 128, 64, 1, 0})),
            BatchFault::kRecords);
}

TEST(LogBatch, FieldsOfTheHeaderHaveLimits) {
  BatchBuilder builder(0, {});
  builder.add_line({0, {}, bytes_of("x")});
  const Bytes good = sealed(builder);
  const auto with = [&](size_t at, auto value) {
    Bytes batch = good;
    store_le(batch.data() + at, value);
    check_again(batch);
    return open(batch);
  };
  EXPECT_EQ(with(8, uint16_t{63}), BatchFault::kNone);
  EXPECT_EQ(with(8, uint16_t{64}), BatchFault::kLimits);
  EXPECT_EQ(with(10, uint16_t{1}), BatchFault::kNone);
  EXPECT_EQ(with(10, uint16_t{2}), BatchFault::kLimits);
  EXPECT_EQ(with(12, uint32_t{0}), BatchFault::kLimits);
  EXPECT_EQ(with(12, kMaxRecords), BatchFault::kRecords);
  EXPECT_EQ(with(12, kMaxRecords + 1), BatchFault::kLimits);
  EXPECT_EQ(with(24, kMaxNumber), BatchFault::kLimits);
  EXPECT_EQ(with(32, kMaxNumber), BatchFault::kLimits);
  EXPECT_EQ(with(32, kMaxNumber - 1), BatchFault::kRecords) << "behind the last number";
  EXPECT_EQ(with(40, kMaxNumber), BatchFault::kLimits);
  Bytes batch = good;
  store_le(batch.data() + 4, static_cast<uint32_t>(kMaxBatchBody + 1));
  EXPECT_EQ(open(batch), BatchFault::kLimits);
  store_le(batch.data() + 4, static_cast<uint32_t>(kMaxBatchBody));
  EXPECT_EQ(open(batch), BatchFault::kShort);
}

template <typename Message>
void expect_round_trip(const Message& message) {
  Bytes bytes;
  encode(message, bytes);
  MessageHeader header;
  ASSERT_EQ(decode_message_header(bytes, header), MessageFault::kNone);
  ASSERT_EQ(header.size(), bytes.size());
  EXPECT_LE(bytes.size(), kMaxMessage);
  Message again;
  ASSERT_EQ(decode(bytes, header, again), MessageFault::kNone);
  EXPECT_EQ(again, message);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] ^= std::byte{4};
    MessageHeader changed;
    const bool same = decode_message_header(bytes, changed) == MessageFault::kNone &&
                      changed.size() == bytes.size() && changed.type == header.type;
    if (same) {
      EXPECT_NE(decode(bytes, changed, again), MessageFault::kNone) << i;
    }
    bytes[i] ^= std::byte{4};
  }
}

TEST(LogMessage, EveryMessageComesBackAndNoChangedOne) {
  Hello hello{kVersion, kLog, {1, 2}, 77, {}};
  State state{7, true, {}};
  Want want{7, true, true, 5, {}};
  for (uint64_t i = 0; i < kMaxSources; ++i) {
    hello.sources.push_back({std::string(i % (kMaxName + 1), 'n'), {i, i}, {i + 1, 2 * i}});
    state.marks.push_back({i, kMaxNumber - 1});
    want.marks.push_back({kMaxNumber - 1, i});
    if (i == 0 || i == kMaxSources - 1) {
      expect_round_trip(hello);
      expect_round_trip(state);
      expect_round_trip(want);
    }
  }
  expect_round_trip(Ack{7, 99, AckLevel::kSpool, true});
  expect_round_trip(Reject{7, 63, 1, 2, 3});
}

TEST(LogMessage, WhatIsOutsideOfItsLimitsIsRefused) {
  const auto refused = [](auto message) {
    Bytes bytes;
    encode(message, bytes);
    MessageHeader header;
    if (decode_message_header(bytes, header) != MessageFault::kNone) return true;
    decltype(message) again;
    return decode(bytes, header, again) != MessageFault::kNone;
  };
  const HelloSource source{"s", {}, {}};
  EXPECT_FALSE(refused(Hello{1, kLog, {}, 0, {source}}));
  EXPECT_TRUE(refused(Hello{1, kLog, {}, 0, {}})) << "no source";
  EXPECT_TRUE(refused(Hello{0, kLog, {}, 0, {source}})) << "version 0";
  EXPECT_TRUE(refused(Hello{1, kLog, {}, kMaxNumber, {source}}));
  EXPECT_TRUE(refused(Hello{1, kLog, {}, 0, std::vector(kMaxSources + 1, source)}));
  EXPECT_TRUE(refused(Hello{1, kLog, {}, 0, {{"s", {5, 5}, {4, 5}}}})) << "start before acked";
  EXPECT_TRUE(refused(State{7, false, {{kMaxNumber, 0}}}));
  EXPECT_TRUE(refused(Want{7, true, false, kMaxNumber, {{}}}));
  EXPECT_TRUE(refused(Ack{7, 0, static_cast<AckLevel>(0), false}));
  EXPECT_TRUE(refused(Ack{7, 0, static_cast<AckLevel>(4), false}));
  EXPECT_TRUE(refused(Reject{7, kMaxSources, 0, 1, 1}));
}

}  // namespace
}  // namespace virtproxy::logs::test
