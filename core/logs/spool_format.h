// What lies in a spool file, SPOOL.md. Two superblocks in turn, then segments as a ring:
//
//   0             20480         40960           40960 + segment_size
//   +-------------+-------------+---------------+---------------+-----
//   | superblock  | superblock  | segment       | segment       | …
//   +-------------+-------------+---------------+---------------+-----
//
// A segment begins with a header of kSegmentHeaderSize bytes; then come batches as they are sent.
// Segments are counted by an index that only grows; segment `index` lies in slot index % segments.
// The position of a byte in the log is index * segment_size + its offset in the segment, so a
// batch tells by its position whether it belongs where it is found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/logs/account.h"
#include "core/logs/limits.h"

namespace virtproxy::logs {

inline constexpr size_t kSuperblockSize = 20480;
inline constexpr size_t kSuperblockArea = 2 * kSuperblockSize;
inline constexpr size_t kSegmentHeaderSize = 8192;
inline constexpr size_t kMaxSpoolLogs =
    16;  // logs of earlier starts that wait in one spool, and the current
inline constexpr uint32_t kLeastSegmentSize = 64u << 10;
inline constexpr uint32_t kMostSegmentSize = 16u << 20;
inline constexpr uint64_t kLeastSegments = 4;

struct SpoolGeometry {
  uint32_t segment_size = 1u << 20;  // a multiple of 4096 bytes
  uint64_t segments = 0;

  uint64_t file_size() const { return kSuperblockArea + segments * segment_size; }
  uint64_t offset_of(uint64_t position) const {
    return kSuperblockArea + position / segment_size % segments * segment_size +
           position % segment_size;
  }
  // Bytes of the largest batch that a segment holds.
  size_t largest_batch() const { return segment_size - kSegmentHeaderSize; }
  bool operator==(const SpoolGeometry&) const = default;
};

// The geometry of a spool of `size` bytes; nothing if it is too small for four segments, or the
// segment size is not a multiple of 4096 from kLeastSegmentSize to kMostSegmentSize.
std::optional<SpoolGeometry> spool_geometry(uint64_t size, uint32_t segment_size);

// One log in the spool: the batches of one start of the sender.
struct SpoolLog {
  LogId id;
  LogId boot;
  uint64_t first = 0;  // its first segment's index; its last one is before that of the next log
  std::vector<Mark> marks;  // how far its sources are numbered

  bool operator==(const SpoolLog&) const = default;
};

struct Superblock {
  SpoolGeometry geometry;
  uint64_t generation = 0;  // the higher of two valid ones counts
  uint64_t tail = 0;        // the oldest segment that is kept
  uint64_t next = 0;        // the segment that is begun next
  uint64_t acked_position = 0;
  std::vector<Mark> acked;    // by source of the first log
  std::deque<SpoolLog> logs;  // from the oldest

  bool operator==(const Superblock&) const = default;
};

struct SegmentSource {
  std::string name;
  Mark start;  // before the first batch of the segment
  bool operator==(const SegmentSource&) const = default;
};

struct SegmentHeader {
  uint64_t index = 0;
  LogId log;
  LogId boot;
  UnixTime time = 0;  // when the segment was begun
  std::vector<SegmentSource> sources;
  LogId previous;  // the log before this one in the spool, and how far it was numbered
  std::vector<Mark> previous_marks;

  std::vector<Mark> starts() const;
  bool operator==(const SegmentHeader&) const = default;
};

// At most kSuperblockSize bytes, as many as are used.
std::vector<std::byte> encode(const Superblock& superblock);
// kSegmentHeaderSize bytes.
std::vector<std::byte> encode(const SegmentHeader& header);

// Nothing if the check or a limit is wrong.
std::optional<Superblock> decode_superblock(std::span<const std::byte> bytes);
std::optional<SegmentHeader> decode_segment_header(std::span<const std::byte> bytes);

}  // namespace virtproxy::logs
