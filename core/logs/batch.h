// Batches: the unit that is numbered, checked, written to the spool and sent, in the same bytes.
// PROTOCOL.md section 3 specifies them; this is their codec.
//
//   0       4        8        10      12        16     24         32      40      48     56
//   +-------+--------+--------+-------+---------+------+----------+-------+-------+------+-------+
//   | magic | length | source | flags | records | log  | position | seq   | bytes | time | check |
//   +-------+--------+--------+-------+---------+------+----------+-------+-------+------+-------+
//
// A batch holds records of one source. Checks are XXH3-64 (github.com/Cyan4973/xxHash, Debian
// libxxhash-dev), keyed by the log's id.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "core/logs/account.h"
#include "core/logs/limits.h"

namespace virtproxy::logs {

inline constexpr uint32_t kBatchMagic = 0x31424c56;  // "VLB1"

// Not stored anywhere: made by the sender for what is missing, and without a place of its own.
inline constexpr uint16_t kFloating = 1;

struct BatchHeader {
  uint32_t length = 0;  // bytes of records behind the header
  uint16_t source = 0;
  uint16_t flags = 0;
  uint32_t records = 0;
  uint64_t log = 0;  // LogId::low
  uint64_t position = 0;
  Mark first;         // the mark of the source in front of the first record
  UnixTime time = 0;  // that the first record's time is relative to

  bool floating() const { return (flags & kFloating) != 0; }
  size_t size() const { return kBatchHeaderSize + length; }
  // Where the batch behind this one may begin.
  uint64_t end_position() const { return position + size(); }
  bool operator==(const BatchHeader&) const = default;
};

struct Credentials {
  uint32_t pid = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;

  bool operator==(const Credentials&) const = default;
};

struct Line {
  UnixTime time = 0;
  std::optional<Credentials> credentials;
  std::span<const std::byte> bytes;  // owned by the caller
};

struct Record {
  enum class Kind : uint8_t {
    kLine,
    kHead,  // the beginning of a line that was too large: its number counts as dropped
    kDrop
  };
  Kind kind = Kind::kLine;
  uint64_t seq = 0;          // the first number that the record covers
  Line line;                 // kLine, kHead; the bytes lie in the batch
  uint64_t full_length = 0;  // kHead: bytes of the whole line
  DropRecord drop;           // kDrop, kHead

  // How many numbers and line bytes the record covers.
  Tally covers() const {
    return kind == Kind::kLine ? Tally{1, line.bytes.size()} : Tally{drop.count, drop.bytes};
  }
};

// Seeds the checks of the batches of a log.
uint64_t check_key(const LogId& log);

enum class BatchFault : uint8_t {
  kNone,
  kShort,   // more bytes are needed
  kMagic,   // no batch begins here
  kLimits,  // a field outside of its limits
  kCheck,   // the check does not match
  kRecords  // the check matches and the records are not as the header says
};

// Decodes and judges the fields of a header, without its check. kNone, kShort, kMagic or kLimits.
BatchFault decode_batch_header(std::span<const std::byte> bytes, BatchHeader& header);

// Where in `bytes`, behind the first one, a batch may begin: the offset of the next magic, or of
// what may be the beginning of one at the end.
size_t next_batch_start(std::span<const std::byte> bytes);

// Judges the check of a batch whose header decodes. `bytes` begin with the batch and hold all of
// it.
bool batch_check_matches(std::span<const std::byte> bytes, const BatchHeader& header, uint64_t key);

// What the records of a batch add up to.
struct BatchExtent {
  Mark end;              // behind the last record
  uint64_t lines = 0;    // records that are whole lines
  uint64_t skipped = 0;  // records of a kind that this version may ignore
  UnixTime last_time = 0;
};

// Decodes everything: header, check, and each record once. `extent` is valid with kNone.
BatchFault open_batch(std::span<const std::byte> bytes, uint64_t key, BatchHeader& header,
                      BatchExtent& extent);

// Goes through the records of a batch that open_batch() accepted, or finds that it is none.
class RecordReader {
 public:
  enum class Step { kRecord, kEnd, kBad };

  // `batch` outlives the reader and the records.
  RecordReader(std::span<const std::byte> batch, const BatchHeader& header);

  Step next(Record& record);
  const Mark& mark() const { return mark_; }
  uint64_t skipped() const { return skipped_; }

 private:
  bool decode(std::span<const std::byte> bytes, Record& record);

  std::span<const std::byte> rest_;
  uint32_t left_;
  Mark mark_;
  UnixTime time_;
  uint64_t skipped_ = 0;
};

// Makes the batches of one source, one behind the other.
class BatchBuilder {
 public:
  BatchBuilder(uint16_t source, const Mark& first) : source_(source), mark_(first) {}

  bool empty() const { return records_ == 0; }
  // Bytes of the batch so far, header included.
  size_t size() const { return bytes_.size(); }
  // Records so far; a batch has at most kMaxRecords.
  uint32_t records() const { return records_; }
  // The mark behind the last record.
  const Mark& mark() const { return mark_; }

  // The most that a record with a line of `size` bytes adds.
  static constexpr size_t cost(size_t size) { return size + kMaxRecordOverhead; }

  void add_line(const Line& line);
  // `line.bytes` is the head of a line of `full_length` bytes.
  void add_head(const Line& line, uint64_t full_length);
  // `record.first` is ignored: the record covers the next numbers.
  void add_drop(const DropRecord& record);

  // The batch, complete but for log, position and check, which seal_batch() writes. The builder is
  // empty afterwards and goes on at its mark.
  std::vector<std::byte> finish(uint16_t flags = 0);
  // Forgets the records, and goes on at `mark`: the next number is that of a batch that was taken
  // back.
  void rewind(const Mark& mark);

 private:
  std::byte* append(size_t size);
  void begin(UnixTime time);
  void add_text(uint8_t kind, const Line& line, uint64_t full_length);

  uint16_t source_;
  uint32_t records_ = 0;
  Mark first_;
  Mark mark_;
  UnixTime base_ = 0;
  UnixTime time_ = 0;
  size_t last_size_ = 0;  // of the batch before
  std::vector<std::byte> bytes_;
};

// A batch that is not sealed yet: it has no position.
struct PendingBatch {
  uint16_t source = 0;
  Mark first;
  Mark end;
  std::vector<std::byte> bytes;
};

// Gives a finished batch its place in a log.
void seal_batch(std::span<std::byte> batch, const LogId& log, uint64_t key, uint64_t position);

}  // namespace virtproxy::logs
