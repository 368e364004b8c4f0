// Reads what a spool holds, segment by segment and batch by batch, and leaves out what is not
// whole. A batch that the spool still has in memory is taken from there. The marks at the beginning
// of each segment, and those of the batches, tell what was left out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/logs/batch.h"
#include "core/logs/spool.h"

namespace virtproxy::logs {

class SpoolReader {
 public:
  enum class Step : uint8_t {
    kRead,     // next_read() is to be carried out
    kWait,     // everything that is written was read
    kSegment,  // a segment begins: segment() and missing()
    kBatch     // batch(), header() and end()
  };

  // `spool` outlives the reader.
  explicit SpoolReader(const Spool& spool) : spool_(spool) {}

  // Goes on at a position: that of a batch, of a segment, or one behind what is written. The
  // segment's header is read again.
  void seek(uint64_t position);
  // Where the next batch is looked for.
  uint64_t position() const { return cursor_; }

  Step step();
  // With kRead. Its bytes go to read(), from the first on; none where they cannot be read.
  SpoolRead next_read() const { return {spool_.geometry().offset_of(wanted_), wanted_size_}; }
  void read(std::span<const std::byte> bytes);

  const SegmentHeader& segment() const { return *segment_; }
  // Why numbers before this segment may be missing.
  DropReason missing() const { return missing_; }
  // Valid until the next call of step() or seek(), or until the spool is told of something or given
  // more.
  std::span<const std::byte> batch() const { return batch_; }
  const BatchHeader& header() const { return header_; }
  // Behind its last record.
  const Mark& end() const { return end_; }

 private:
  uint64_t base() const { return cursor_ / size_of_segment() * size_of_segment(); }
  uint64_t size_of_segment() const { return spool_.geometry().segment_size; }
  uint64_t segment_end() const { return base() + size_of_segment(); }
  Step want(uint64_t position, size_t size);
  void enter(uint64_t index);
  std::optional<Step> open_segment();
  std::optional<Step> find_batch(uint64_t end);

  const Spool& spool_;
  uint64_t cursor_ = 0;
  std::optional<SegmentHeader> segment_;  // of the segment that the cursor is in
  bool unreadable_ = false;               // its header is not valid
  uint64_t key_ = 0;
  DropReason missing_ = DropReason::kCorrupt;
  std::span<const std::byte> batch_;
  BatchHeader header_;
  Mark end_;
  // Bytes of the file from buffer_at_ on.
  std::vector<std::byte> buffer_;
  uint64_t buffer_at_ = 0;
  uint64_t wanted_ = 0;
  size_t wanted_size_ = 0;
  uint64_t failed_at_ = UINT64_MAX;  // a read from here gave less than asked for
};

}  // namespace virtproxy::logs
