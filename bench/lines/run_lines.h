// A run of numbered lines: writers on threads of their own, the far end read and audited on the
// caller's.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "lines/audit.h"
#include "lines/plan.h"
#include "result.h"

namespace virtproxy::bench::lines {

struct LinesResult {
  Outcome outcome = Outcome::kOk;
  std::string failure;
  bool measured = false;

  double write_seconds = 0;  // until the last writer ended
  double seconds = 0;        // until the last line arrived, or without a sink was written
  uint64_t sent = 0;
  WriterCount count;
  ToldDrops told;
  uint64_t foreign = 0;     // messages at the sink that are no lines of this run
  uint64_t unfinished = 0;  // messages that their connection or file ended in
  bool read_again = false;  // the file was shortened, and audited once more as it is at the end
  Histogram ages;
  bool has_ages = false;
  int64_t longest_write_ns = 0;
  uint64_t reconnects = 0;
  std::vector<uint64_t> sent_by_writer;
  std::vector<WriterCount> writers;
  std::string missing;  // the first numbers that did not arrive

  double own_cpu = 0;
  std::vector<ProcessResult> processes;
  NoiseResult noise;

  // Lines that neither arrived nor were told of. Negative: more was told of than is missing.
  int64_t unaccounted() const {
    return static_cast<int64_t>(sent) - static_cast<int64_t>(count.delivered) -
           static_cast<int64_t>(told.lines);
  }
  double processes_cpu() const;
};

// Throws Failure for what cannot even be started.
LinesResult run_lines(const LinesPlan& plan);

// The table for people, and the report for machines (README.md).
std::string format_lines_table(const LinesPlan& plan, const LinesResult& result);
nlohmann::ordered_json make_lines_json(const LinesPlan& plan, const LinesResult& result);

}  // namespace virtproxy::bench::lines
