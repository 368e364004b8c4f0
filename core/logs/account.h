// What is counted in a log: the numbers of its sources, and the lines that were dropped.
//
// A source numbers every line that it receives, kept or not. Each number is delivered once or
// covered by exactly one drop record. Beside the number a source counts the bytes of all lines, so
// that the two marks around a gap give its lines and its bytes exactly, whatever was lost in
// between.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace virtproxy::logs {

// Nanoseconds since 1970, of the sender's clock. It may jump: order follows from numbers alone.
using UnixTime = uint64_t;

// The numbering of one run of a sender. The caller draws it at random for every start, so that no
// number is given twice, whatever a crash took.
struct LogId {
  uint64_t low = 0;
  uint64_t high = 0;

  bool operator==(const LogId&) const = default;
};

// A place in a source: `seq` lines with `bytes` bytes come before it.
struct Mark {
  uint64_t seq = 0;
  uint64_t bytes = 0;

  bool operator==(const Mark&) const = default;
};

// True if `later` can follow `earlier` in one source.
constexpr bool in_order(const Mark& earlier, const Mark& later) {
  return earlier.seq <= later.seq && earlier.bytes <= later.bytes;
}

enum class DropReason : uint8_t {
  kNewest = 0,      // no room, the line that came last was dropped
  kOldest,          // no room, the line that waited longest was dropped
  kRate,            // over the rate limit of its source
  kTooLarge,        // longer than the limit: at most its head was kept
  kKernelOverflow,  // lost by the kernel in front of the source, which counted it
  kCorrupt,         // written to the spool, and not readable any more
  kRejected,        // refused for good by the receiver's sink
  kShutdown         // not sent when the sender had to stop
};
inline constexpr size_t kDropReasons = 8;

// As documents and metrics spell it: "newest", "kernel-overflow", …
std::string_view name_of(DropReason reason);

struct Tally {
  uint64_t lines = 0;
  uint64_t bytes = 0;

  void add(uint64_t more_lines, uint64_t more_bytes) {
    lines += more_lines;
    bytes += more_bytes;
  }
  bool operator==(const Tally&) const = default;
};

inline Tally sum_of(const std::array<Tally, kDropReasons>& by_reason) {
  Tally sum;
  for (const Tally& tally : by_reason) sum.add(tally.lines, tally.bytes);
  return sum;
}

// `count` numbers of one source from `first` on, all dropped for one reason.
struct DropRecord {
  DropReason reason = DropReason::kNewest;
  uint64_t first = 0;
  uint64_t count = 0;
  uint64_t bytes = 0;
  UnixTime first_time = 0;
  UnixTime last_time = 0;

  bool operator==(const DropRecord&) const = default;
};

// Lines dropped one behind the other, by reason: the numbers of a gap are one range, and which of
// them had which reason is not told apart. A gap is written as one drop record per reason, whose
// ranges adjoin; so its size does not depend on how often reasons took turns.
class Gap {
 public:
  bool empty() const { return total_.lines == 0; }
  const Tally& total() const { return total_; }
  // `record.first` is ignored.
  void add(const DropRecord& record) {
    if (record.count == 0) return;
    DropRecord& of = by_reason_[static_cast<size_t>(record.reason)];
    of.first_time = of.count == 0 ? record.first_time : std::min(of.first_time, record.first_time);
    of.last_time = std::max(of.last_time, record.last_time);
    of.count += record.count;
    of.bytes += record.bytes;
    total_.add(record.count, record.bytes);
  }
  void add(const Gap& other) {
    other.each(0, [&](const DropRecord& record) { add(record); });
  }
  // Calls `visit` with each record; the first one begins at `first`.
  template <typename Visit>
  void each(uint64_t first, Visit visit) const {
    for (size_t i = 0; i < kDropReasons; ++i) {
      DropRecord record = by_reason_[i];
      if (record.count == 0) continue;
      record.reason = static_cast<DropReason>(i);
      record.first = first;
      first += record.count;
      visit(record);
    }
  }
  void clear() { *this = Gap(); }

 private:
  std::array<DropRecord, kDropReasons> by_reason_{};
  Tally total_;
};

}  // namespace virtproxy::logs
