#include "core/logs/batch.h"

#include <algorithm>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/logs/varint.h"
#include "core/wire/little_endian.h"

namespace virtproxy::logs {
namespace {

constexpr size_t kMagicAt = 0;
constexpr size_t kLengthAt = 4;
constexpr size_t kSourceAt = 8;
constexpr size_t kFlagsAt = 10;
constexpr size_t kRecordsAt = 12;
constexpr size_t kLogAt = 16;
constexpr size_t kPositionAt = 24;
constexpr size_t kSeqAt = 32;
constexpr size_t kBytesAt = 40;
constexpr size_t kTimeAt = 48;
constexpr size_t kCheckAt = 56;

// The first byte of a record: what it is, and what else it has.
constexpr uint8_t kKindMask = 0x0f;
constexpr uint8_t kLineKind = 0;
constexpr uint8_t kHeadKind = 1;
constexpr uint8_t kDropKind = 2;
constexpr uint8_t kHasCredentials = 0x10;
constexpr uint8_t kMayBeSkipped = 0x80;

uint64_t check_of(std::span<const std::byte> batch, uint64_t key) {
  // The header's hash seeds that of the records: one pass each, no copy.
  const uint64_t seed = XXH3_64bits_withSeed(batch.data(), kCheckAt, key);
  return XXH3_64bits_withSeed(batch.data() + kBatchHeaderSize, batch.size() - kBatchHeaderSize,
                              seed);
}

bool get_credentials(std::span<const std::byte>& in, Credentials& credentials) {
  for (uint32_t* field : {&credentials.pid, &credentials.uid, &credentials.gid}) {
    uint64_t value = 0;
    if (!get_varint(in, value) || value > UINT32_MAX) return false;
    *field = static_cast<uint32_t>(value);
  }
  return true;
}

}  // namespace

uint64_t check_key(const LogId& log) {
  std::byte both[16];
  store_le(both, log.low);
  store_le(both + 8, log.high);
  return XXH3_64bits(both, sizeof both);
}

BatchFault decode_batch_header(std::span<const std::byte> bytes, BatchHeader& header) {
  if (bytes.size() < kBatchHeaderSize) return BatchFault::kShort;
  const std::byte* in = bytes.data();
  if (load_le<uint32_t>(in + kMagicAt) != kBatchMagic) return BatchFault::kMagic;
  header.length = load_le<uint32_t>(in + kLengthAt);
  header.source = load_le<uint16_t>(in + kSourceAt);
  header.flags = load_le<uint16_t>(in + kFlagsAt);
  header.records = load_le<uint32_t>(in + kRecordsAt);
  header.log = load_le<uint64_t>(in + kLogAt);
  header.position = load_le<uint64_t>(in + kPositionAt);
  header.first.seq = load_le<uint64_t>(in + kSeqAt);
  header.first.bytes = load_le<uint64_t>(in + kBytesAt);
  header.time = load_le<uint64_t>(in + kTimeAt);
  const bool sane = header.length > 0 && header.length <= kMaxBatchBody &&
                    header.source < kMaxSources && (header.flags & ~kFloating) == 0 &&
                    header.records > 0 && header.records <= kMaxRecords &&
                    header.position < kMaxNumber && header.first.seq < kMaxNumber &&
                    header.first.bytes < kMaxNumber;
  return sane ? BatchFault::kNone : BatchFault::kLimits;
}

size_t next_batch_start(std::span<const std::byte> bytes) {
  std::byte magic[sizeof kBatchMagic];
  store_le(magic, kBatchMagic);
  for (size_t at = 1; at < bytes.size(); ++at) {
    const void* const found =
        std::memchr(bytes.data() + at, static_cast<int>(magic[0]), bytes.size() - at);
    if (found == nullptr) break;
    at = static_cast<size_t>(static_cast<const std::byte*>(found) - bytes.data());
    if (std::memcmp(found, magic, std::min(sizeof magic, bytes.size() - at)) == 0) return at;
  }
  return bytes.size();
}

bool batch_check_matches(std::span<const std::byte> bytes, const BatchHeader& header,
                         uint64_t key) {
  return load_le<uint64_t>(bytes.data() + kCheckAt) == check_of(bytes.first(header.size()), key);
}

BatchFault open_batch(std::span<const std::byte> bytes, uint64_t key, BatchHeader& header,
                      BatchExtent& extent) {
  if (const BatchFault fault = decode_batch_header(bytes, header); fault != BatchFault::kNone) {
    return fault;
  }
  if (bytes.size() < header.size()) return BatchFault::kShort;
  if (!batch_check_matches(bytes, header, key)) return BatchFault::kCheck;
  RecordReader reader(bytes, header);
  Record record;
  extent = {};
  for (;;) {
    const auto step = reader.next(record);
    if (step == RecordReader::Step::kBad) return BatchFault::kRecords;
    if (step == RecordReader::Step::kEnd) break;
    if (record.kind == Record::Kind::kLine) ++extent.lines;
    extent.last_time =
        record.kind == Record::Kind::kDrop ? record.drop.last_time : record.line.time;
  }
  extent.end = reader.mark();
  extent.skipped = reader.skipped();
  return BatchFault::kNone;
}

// --- reading ----------------------------------------------------------------------------------

RecordReader::RecordReader(std::span<const std::byte> batch, const BatchHeader& header)
    : rest_(batch.subspan(kBatchHeaderSize, header.length)),
      left_(header.records),
      mark_(header.first),
      time_(header.time) {}

RecordReader::Step RecordReader::next(Record& record) {
  for (;;) {
    if (left_ == 0) return rest_.empty() ? Step::kEnd : Step::kBad;
    uint64_t size = 0;
    if (!get_varint(rest_, size) || size == 0 || size > rest_.size()) return Step::kBad;
    const auto bytes = rest_.first(size);
    rest_ = rest_.subspan(size);
    --left_;
    if ((static_cast<uint8_t>(bytes[0]) & kMayBeSkipped) != 0) {
      ++skipped_;
      continue;
    }
    if (!decode(bytes, record)) return Step::kBad;
    const Tally covers = record.covers();
    mark_.seq += covers.lines;
    mark_.bytes += covers.bytes;
    return mark_.seq < kMaxNumber && mark_.bytes < kMaxNumber ? Step::kRecord : Step::kBad;
  }
}

bool RecordReader::decode(std::span<const std::byte> bytes, Record& record) {
  const auto first = static_cast<uint8_t>(bytes[0]);
  const uint8_t kind = first & kKindMask;
  const bool has_credentials = (first & kHasCredentials) != 0;
  if ((first & ~(kKindMask | kHasCredentials)) != 0 || kind > kDropKind) return false;
  std::span<const std::byte> in = bytes.subspan(1);
  uint64_t difference = 0;
  if (!get_varint(in, difference)) return false;
  time_ += unzigzag(difference);
  record.seq = mark_.seq;
  if (kind == kDropKind) {
    uint64_t lasts = 0;
    if (has_credentials || in.empty()) return false;
    const auto reason = static_cast<uint8_t>(in[0]);
    in = in.subspan(1);
    DropRecord& drop = record.drop;
    if (reason >= kDropReasons || !get_varint(in, drop.count) || !get_varint(in, drop.bytes) ||
        !get_varint(in, lasts) || !in.empty()) {
      return false;
    }
    if (drop.count == 0 || drop.count >= kMaxNumber || drop.bytes >= kMaxNumber) return false;
    record.kind = Record::Kind::kDrop;
    drop.reason = static_cast<DropReason>(reason);
    drop.first = mark_.seq;
    drop.first_time = time_;
    drop.last_time = time_ + lasts;
    return drop.last_time >= drop.first_time;
  }
  record.line.credentials.reset();
  record.full_length = 0;
  if (has_credentials && !get_credentials(in, record.line.credentials.emplace())) return false;
  if (kind == kHeadKind && !get_varint(in, record.full_length)) return false;
  if (in.size() > kMaxLine) return false;
  record.line.time = time_;
  record.line.bytes = in;
  record.kind = kind == kLineKind ? Record::Kind::kLine : Record::Kind::kHead;
  if (kind == kHeadKind) {
    if (record.full_length <= in.size() || record.full_length >= kMaxNumber) return false;
    record.drop = {DropReason::kTooLarge, mark_.seq, 1, record.full_length, time_, time_};
  }
  return true;
}

// --- writing ----------------------------------------------------------------------------------

std::byte* BatchBuilder::append(size_t size) {
  const size_t at = bytes_.size();
  bytes_.resize(at + size);
  return bytes_.data() + at;
}

void BatchBuilder::begin(UnixTime time) {
  ++records_;
  if (records_ > 1) return;
  first_ = mark_;
  base_ = time_ = time;
  bytes_.reserve(last_size_);  // batches of one source are alike
  bytes_.resize(kBatchHeaderSize);
}

void BatchBuilder::add_text(uint8_t kind, const Line& line, uint64_t full_length) {
  begin(line.time);
  // What stands in front of the line, with room for the size in front of that.
  std::byte head[2 * kMaxRecordOverhead];
  std::byte* const fields = head + kMaxVarint;
  std::byte* end = fields;
  *end++ = static_cast<std::byte>(kind | (line.credentials ? kHasCredentials : 0));
  end = put_varint(end, zigzag(line.time - time_));
  if (line.credentials) {
    end = put_varint(end, line.credentials->pid);
    end = put_varint(end, line.credentials->uid);
    end = put_varint(end, line.credentials->gid);
  }
  if (kind == kHeadKind) end = put_varint(end, full_length);
  time_ = line.time;
  const auto size = static_cast<size_t>(end - fields);
  std::byte prefix[kMaxVarint];
  const auto prefix_size =
      static_cast<size_t>(put_varint(prefix, size + line.bytes.size()) - prefix);
  std::memcpy(fields - prefix_size, prefix, prefix_size);
  std::byte* const begin_of_record = fields - prefix_size;
  bytes_.insert(bytes_.end(), begin_of_record, end);
  bytes_.insert(bytes_.end(), line.bytes.begin(), line.bytes.end());
}

void BatchBuilder::add_line(const Line& line) {
  add_text(kLineKind, line, 0);
  mark_.seq += 1;
  mark_.bytes += line.bytes.size();
}

void BatchBuilder::add_head(const Line& line, uint64_t full_length) {
  add_text(kHeadKind, line, full_length);
  mark_.seq += 1;
  mark_.bytes += full_length;
}

void BatchBuilder::add_drop(const DropRecord& record) {
  begin(record.first_time);
  std::byte fields[kMaxRecordOverhead];
  std::byte* end = fields;
  *end++ = std::byte{kDropKind};
  end = put_varint(end, zigzag(record.first_time - time_));
  *end++ = static_cast<std::byte>(record.reason);
  end = put_varint(end, record.count);
  end = put_varint(end, record.bytes);
  end = put_varint(end, record.last_time - record.first_time);
  time_ = record.first_time;
  const auto size = static_cast<size_t>(end - fields);
  std::byte* const out = append(1 + size);
  *out = static_cast<std::byte>(size);  // below 128: one byte
  std::memcpy(out + 1, fields, size);
  mark_.seq += record.count;
  mark_.bytes += record.bytes;
}

std::vector<std::byte> BatchBuilder::finish(uint16_t flags) {
  std::byte* const out = bytes_.data();
  std::memset(out, 0, kBatchHeaderSize);
  store_le(out + kMagicAt, kBatchMagic);
  store_le(out + kLengthAt, static_cast<uint32_t>(bytes_.size() - kBatchHeaderSize));
  store_le(out + kSourceAt, source_);
  store_le(out + kFlagsAt, flags);
  store_le(out + kRecordsAt, records_);
  store_le(out + kSeqAt, first_.seq);
  store_le(out + kBytesAt, first_.bytes);
  store_le(out + kTimeAt, base_);
  records_ = 0;
  last_size_ = bytes_.size();
  if (bytes_.capacity() > 2 * bytes_.size()) bytes_.shrink_to_fit();
  std::vector<std::byte> batch;
  batch.swap(bytes_);
  return batch;
}

void BatchBuilder::rewind(const Mark& mark) {
  mark_ = mark;
  records_ = 0;
  bytes_.clear();
}

void seal_batch(std::span<std::byte> batch, const LogId& log, uint64_t key, uint64_t position) {
  store_le(batch.data() + kLogAt, log.low);
  store_le(batch.data() + kPositionAt, position);
  store_le(batch.data() + kCheckAt, check_of(batch, key));
}

}  // namespace virtproxy::logs
