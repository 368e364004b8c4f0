// Lines between their sources and the log: numbered, encoded into batches of one source each, and
// dropped by policy when memory is short.
//
// Memory is bounded by `BufferConfig::memory`, whatever the sources send. When it is used up, the
// source that holds most loses first ("longest queue drop", Suter, Lakshman, Stiliadis and
// Choudhury, 1998), by its own policy; so a source that floods cannot push out others. A source
// that may block waits from three quarters of the memory on, so that the others keep room, unless
// it holds less than its share and others have more to lose.
//
// What is dropped is counted at its place in the numbering: numbers of one source are delivered or
// dropped in the order in which its lines came.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "core/logs/account.h"
#include "core/logs/batch.h"
#include "core/time.h"

namespace virtproxy::logs {

enum class Policy : uint8_t {
  kBlock,       // the source is not read, for at most `block_for`; then as kDropNewest
  kDropNewest,  // what comes is dropped
  kDropOldest   // what has waited longest is dropped, a batch at a time
};

struct SourceConfig {
  std::string name;
  Policy full = Policy::kDropNewest;
  // With kBlock: how long the source is kept from being read, in all, before it begins to lose. The
  // budget is full again once half of the memory is free.
  Duration block_for = std::chrono::seconds(1);
};

struct BufferConfig {
  size_t memory = 8u << 20;       // bytes of batches and their bookkeeping, at least 64 KiB
  size_t max_line = 256u << 10;   // longer lines keep their head; at most kMaxLine and memory / 4
  size_t batch_size = 64u << 10;  // at which a batch is closed, bytes; at most memory / 8
  Duration batch_delay = std::chrono::milliseconds(5);  // after which one is closed
  // While there is nothing else to send, what a source has is given this long after the last time.
  // A line by itself waits for nothing; thousands a second share what a batch costs.
  Duration idle_interval = std::chrono::milliseconds(1);
  // The same while so many bytes come in each idle_interval that the processor is what they lack:
  // what they cost is mostly that processes take turns. Below batch_delay.
  Duration busy_interval = std::chrono::milliseconds(4);
  size_t busy_bytes = 32u << 10;
};

class Buffer {
 public:
  // What else there is to send.
  enum class Traffic : uint8_t {
    kBusy,
    kIdle,  // nothing: batches are closed sooner
    kLast   // nothing, and no line will come: whatever there is, at once
  };
  enum class Admission : uint8_t {
    kTaken,    // numbered, and kept or dropped: the source goes on
    kBlocked,  // not numbered: offer the line again when unblocked() or at blocked_until()
  };

  // Values outside of their ranges are brought into them.
  Buffer(const BufferConfig& config, std::vector<SourceConfig> sources);

  size_t sources() const { return sources_.size(); }
  const std::string& name(uint16_t source) const { return sources_[source].config.name; }

  // A line of a source. `full_length` is more than `line.bytes` where the source has received only
  // a head of it.
  Admission offer(uint16_t source, const Line& line, uint64_t full_length, Instant now);
  // Lines that were lost before they could be offered, or are not to be kept. `record.first` is
  // ignored; with a count of 0 nothing happens.
  void drop(uint16_t source, DropRecord record, Instant now);

  // True if the source was blocked and its lines will be taken now.
  bool unblocked(uint16_t source) const;
  // When a blocked source begins to lose.
  std::optional<Instant> blocked_until(uint16_t source) const;

  // The next batch for the log: one that is closed or due, of the sources in turn.
  std::optional<PendingBatch> take(Instant now, Traffic traffic);
  // When take() will have something that it does not have now.
  std::optional<Instant> due(Traffic traffic) const;
  // Drops everything that is held, as kShutdown; the drop records are held instead.
  void drop_all(Instant now);

  // Bytes in use, at most `memory`.
  size_t used() const { return used_; }
  size_t used(uint16_t source) const { return sources_[source].used; }
  bool empty() const;
  // How far a source is numbered.
  Mark mark(uint16_t source) const;
  // Lines dropped so far by reason, those whose records are still held included.
  const std::array<Tally, kDropReasons>& dropped(uint16_t source) const {
    return sources_[source].dropped;
  }
  const Tally& received(uint16_t source) const { return sources_[source].received; }

 private:
  struct Closed {
    PendingBatch batch;
    Gap drops;    // drop records among its records
    Tally lines;  // the other ones
    UnixTime first_time = 0;
    UnixTime last_time = 0;
  };
  // A source's numbers, from the oldest: head gap, closed batches, open batch, tail gap.
  struct Source {
    Source(SourceConfig c, uint16_t index) : config(std::move(c)), open(index, {}) {}

    SourceConfig config;
    Mark head;  // where the head gap begins
    Gap head_gap;
    std::deque<Closed> closed;
    BatchBuilder open;
    Closed open_facts;  // of the open batch
    Gap tail_gap;
    size_t used = 0;
    std::optional<Instant> since;  // the oldest of open batch and gaps
    Instant idle_at{};             // what there is may be given while there is nothing else
    std::optional<Instant> blocked_since;
    Duration budget{};
    Tally received;
    std::array<Tally, kDropReasons> dropped{};
  };

  static size_t closed_cost(const Closed& closed);
  static size_t open_cost(const Source& source);
  // Frees memory until `need` more bytes fit, as the policies say; false if they do not allow it.
  bool make_room(Source& source, size_t need);
  // Whether a source that may block is taken from: there is room that it may use, or others have to
  // make it.
  bool has_room(const Source& source, size_t need) const;
  bool must_wait(Source& source, size_t need, Instant now);
  bool lose_by_policy(Source& source);
  bool lose_oldest(Source& source);
  bool lose_newest(Source& source);
  void close(Source& source);
  // Writes the tail gap behind the last line.
  void put_tail_gap(Source& source);
  // When what waits in batches or a gap is to be taken.
  Instant due_at(const Source& source, Traffic traffic) const;
  // Whether a source waits for its idle_at, closed batches included.
  bool paced(const Source& source, Instant now, Traffic traffic) const;
  // From now to the next idle_at.
  Duration interval(Instant now);
  void count_drop(Source& source, const DropRecord& record);
  void lose(Source& source, const Closed& closed, DropReason reason, Gap& into);
  void charge(Source& source, size_t before, size_t after);
  PendingBatch take_head_gap(Source& source);
  PendingBatch take_closed(Source& source);

  BufferConfig config_;
  std::vector<Source> sources_;
  size_t used_ = 0;
  size_t next_ = 0;  // the source whose turn it is
  // How fast lines come: the bytes of the batches that were given since then.
  Instant counted_since_{};
  size_t counted_ = 0;
  bool busy_ = false;  // the last time that this was looked at
};

}  // namespace virtproxy::logs
