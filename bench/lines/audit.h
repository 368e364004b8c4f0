// The account of a run of lines: which numbers of each writer arrived, how often and in which
// order, and what the daemons say that they dropped. No system call; one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "histogram.h"
#include "lines/line.h"

namespace virtproxy::bench::lines {

struct WriterCount {
  uint64_t delivered = 0;  // different numbers that arrived intact
  uint64_t doubled = 0;    // arrivals of a number beyond the first
  uint64_t reordered = 0;  // arrivals behind a higher number of the same writer
  uint64_t corrupted = 0;  // arrivals with wrong, missing or too many bytes

  void add(const WriterCount& other);
};

// What drop records at the sink say.
struct ToldDrops {
  uint64_t records = 0;
  uint64_t lines = 0;
  uint64_t at_most = 0;  // of records that give the most that it may have been, and not in `lines`
  // By reason, in order of appearance.
  std::vector<std::pair<std::string, uint64_t>> reasons;

  void add(std::string_view reason, uint64_t count);
};

class Audit {
 public:
  explicit Audit(const LineShape& shape);

  // A line that was read at `now_ns`; `sent` is how many numbers its writer has used so far.
  void arrived(const ParsedLine& line, int64_t now_ns, uint64_t sent);
  void foreign() { ++foreign_; }
  void told(std::string_view reason, uint64_t count) { told_.add(reason, count); }
  void told_at_most(uint64_t count) {
    ++told_.records;
    told_.at_most += count;
  }

  WriterCount total() const;
  const std::vector<WriterCount>& writers() const { return counts_; }
  uint64_t foreign_lines() const { return foreign_; }
  const ToldDrops& told() const { return told_; }
  // Nanoseconds from write to sink, of intact first arrivals.
  const Histogram& ages() const { return ages_; }
  // Those since the last call.
  Histogram take_interval_ages();
  // Arrivals of any kind, for progress.
  uint64_t arrivals() const { return arrivals_; }
  uint64_t delivered() const { return delivered_; }
  // The first ranges of numbers below `sent` of a writer that did not arrive, for reports.
  std::string describe_missing(uint32_t writer, uint64_t sent, size_t most) const;

 private:
  struct Track {
    std::vector<uint64_t> seen;
    uint64_t highest = 0;  // one more than the highest number that arrived
  };

  uint64_t unwrap(const Track& track, uint64_t low) const;

  LineShape shape_;
  std::vector<Track> tracks_;
  std::vector<WriterCount> counts_;
  ToldDrops told_;
  Histogram ages_;
  Histogram interval_ages_;
  uint64_t foreign_ = 0;
  uint64_t arrivals_ = 0;
  uint64_t delivered_ = 0;
};

}  // namespace virtproxy::bench::lines
