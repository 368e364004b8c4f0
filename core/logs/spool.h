// A spool: batches in one file of fixed size, written behind one another and read in the same
// order, SPOOL.md. This is a state machine: it yields operations on ranges of the file, which its
// caller carries out and reports. Nothing is opened, renamed, truncated or extended.
//
//   recovery  what the file holds, after a start: SpoolRecovery reads it
//   writing   append() gives batches their place; next_write() yields writes and syncs, in order
//   reading   SpoolReader reads batches that are written
//
// A write that the system has taken survives the end of the process; whether and when it is forced
// to the disk, so that it survives the end of the machine, is decided outside, by request_sync().
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/logs/account.h"
#include "core/logs/batch.h"
#include "core/logs/spool_format.h"

namespace virtproxy::logs {

struct SpoolRead {
  uint64_t offset = 0;
  size_t size = 0;  // bytes; fewer may be read
};

struct SpoolWrite {
  enum class Kind : uint8_t { kWrite, kSync };
  Kind kind = Kind::kWrite;
  uint64_t offset = 0;
  std::span<const std::byte> bytes;  // valid until written()
};

// Finds out what a spool file holds. Reads the superblocks, the header of the newest segment that
// they name and of those behind it, and the newest segment; without a valid superblock, the header
// of every segment.
class SpoolRecovery {
 public:
  enum class Phase : uint8_t { kSuperblocks, kHeaders, kSegment, kDone, kOtherGeometry };

  explicit SpoolRecovery(const SpoolGeometry& geometry);

  Phase phase() const { return phase_; }
  // With kOtherGeometry: what the file was made with. It is not touched.
  const SpoolGeometry& found_geometry() const { return state_.geometry; }
  // What to read next, until kDone or kOtherGeometry.
  SpoolRead next_read() const;
  // The bytes of that read, from its offset on; fewer, or none, where they cannot be read.
  void read(std::span<const std::byte> bytes);
  // With kDone: the state to go on with. `next` is a segment that no batch was ever written to.
  const Superblock& state() const { return state_; }

 private:
  void take_superblocks(std::span<const std::byte> bytes);
  void take_header(const std::optional<SegmentHeader>& header);
  void take_segment(std::span<const std::byte> bytes);
  void headers_done();
  void rebuild(const std::vector<SegmentHeader>& headers);

  SpoolGeometry geometry_;
  Phase phase_ = Phase::kSuperblocks;
  Superblock state_;
  bool scanning_all_ = false;
  uint64_t probe_ = 0;  // segment index, or slot when all are scanned
  uint64_t probe_end_ = 0;
  std::optional<SegmentHeader> newest_;
  std::vector<SegmentHeader>
      headers_;  // when all are scanned: those that begin a log, and the newest
};

struct SpoolConfig {
  SpoolGeometry geometry;
  // What append() does when all segments are in use: refuse, or give up the oldest segment.
  enum class Full : uint8_t { kRefuse, kDropOldest } full = Full::kRefuse;
  size_t write_queue = 1u << 20;  // bytes that wait to be written, one batch more
  // Bytes of batches that stay in memory once they are written, until passed() is told of them: a
  // reader that is close behind the writer reads nothing from the file.
  size_t recent = 256u << 10;
};

// A batch that was written lately.
struct RecentBatch {
  std::span<const std::byte> bytes;  // valid until the spool is told of something, or given more
  Mark end;                          // behind its last record
};

class Spool {
 public:
  // `recovered` is what SpoolRecovery found. A new log begins: `log` is drawn by the caller, and
  // was never used before. `names`: 1 to kMaxSources sources.
  Spool(const SpoolConfig& config, const Superblock& recovered, const LogId& log, const LogId& boot,
        std::vector<std::string> names);

  const SpoolGeometry& geometry() const { return config_.geometry; }
  // True if a batch of `size` bytes (header included) has room now.
  bool has_room(size_t size) const;
  // Seals the batch at its place, takes its bytes and queues them. False where has_room() is false:
  // the caller keeps it. `time`: now.
  bool append(PendingBatch& batch, UnixTime time);

  // The next write or sync, when none is under way.
  std::optional<SpoolWrite> next_write();
  // Ends the operation: `bytes` of it were written. Fewer than all, or none where it failed: it is
  // yielded again, and the caller decides when.
  void written(size_t bytes);
  void synced();
  bool write_under_way() const { return under_way_; }
  // Everything that was appended, and the superblock, are to be forced to the disk.
  void request_sync();
  // Everything before it is on the disk, as far as syncs tell.
  uint64_t synced_position() const { return synced_position_; }
  // Batches that end before it may be read.
  uint64_t written_position() const { return written_position_; }
  uint64_t appended_position() const { return appended_position_; }
  // The batch at the position if it is written and still in memory.
  std::optional<RecentBatch> recent(uint64_t position) const;
  // Who reads is past all batches before it: none of them need stay in memory.
  void passed(uint64_t position);

  // The logs in the spool from the oldest; the last one is the current one.
  const std::deque<SpoolLog>& logs() const { return state_.logs; }
  const std::vector<Mark>& marks() const { return state_.logs.back().marks; }
  uint64_t tail() const { return state_.tail; }
  // Segments in use: from tail() to, and without, next().
  uint64_t next() const { return state_.next; }
  uint64_t acked_position() const { return state_.acked_position; }
  const std::vector<Mark>& acked() const { return state_.acked; }
  // Of the first log: everything before the position is acknowledged and may be overwritten.
  void acknowledge(uint64_t position, const std::vector<Mark>& acked);
  // The first log is acknowledged as a whole. False for the current one.
  bool finish_first_log();

  // Counts of what this run gave up to make room.
  uint64_t segments_dropped() const { return segments_dropped_; }

 private:
  struct Place {
    uint64_t position;
    Mark end;
  };
  struct Queued {
    uint64_t offset = 0;
    std::vector<std::byte> bytes{};
    uint64_t written_position = 0;  // reached once this is written; 0: no change
    bool sync = false;
    std::vector<Place> batches{};  // that the bytes are, if they are batches
  };

  void start_first_log();
  bool fits_segment(size_t size) const;
  bool may_begin_segment() const;
  void begin_segment(UnixTime time);
  void queue(Queued what);
  void queue_superblock();
  void forget_recent();

  SpoolConfig config_;
  Superblock state_;
  std::vector<std::string> names_;
  uint64_t key_ = 0;
  bool segment_open_ = false;
  std::deque<Queued> queue_;
  size_t queued_ = 0;  // bytes
  size_t done_ = 0;    // bytes of the first that are written
  bool under_way_ = false;
  std::deque<Queued> recent_;  // written batches
  size_t recent_bytes_ = 0;
  uint64_t appended_position_ = 0;
  uint64_t written_position_ = 0;
  uint64_t synced_position_ = 0;
  uint64_t segments_dropped_ = 0;
};

}  // namespace virtproxy::logs
