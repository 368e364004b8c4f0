// Everything a run found out; the reports are made from this alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "failure.h"
#include "histogram.h"
#include "process_stats.h"

namespace virtproxy::bench {

struct ProcessResult {
  pid_t pid = 0;
  std::string name;
  ProcessSample idle;    // before the first connection
  ProcessSample before;  // at the start of the measurement
  ProcessSample after;   // at its end

  double cpu() const { return after.cpu - before.cpu; }
};

struct NoiseResult {
  // The machine is called noisy when a share exceeds these.
  static constexpr double kMaxSteal = 0.02;
  static constexpr double kMaxForeign = 0.05;
  static constexpr double kMaxInvoluntary = 20000;
  static constexpr double kMaxSpread = 0.25;
  // The kernel counts the machine's time in ticks of 10 ms: shares of less say nothing.
  static constexpr double kMinSeconds = 0.5;
  static constexpr size_t kMinIntervals = 4;

  double steal = 0;
  // For the record. A thread that waits for its io_uring counts as waiting for a disk, so an idle
  // proxy makes it half of a processor.
  double iowait = 0;
  double foreign = 0;  // CPU of the machine that neither we nor the given processes used
  bool foreign_known = false;
  double involuntary = 0;  // our own involuntary context switches a second
  double spread = 0;       // (max - min) / mean over the intervals
  std::vector<double> intervals;
  std::vector<std::string> reasons;

  bool judged() const { return intervals.size() >= kMinIntervals; }
  static std::string criterion();
};

struct RunResult {
  Outcome outcome = Outcome::kOk;
  std::string failure;
  bool measured = false;

  double seconds = 0;
  uint64_t bytes_up = 0;
  uint64_t bytes_down = 0;
  bool counted_at_sink = false;
  uint64_t messages = 0;
  uint64_t exchange_bytes = 0;
  Histogram latency;
  uint64_t backlog = 0;
  uint64_t sink_mismatches = 0;

  // Bytes that each connection moved, as the client counts them.
  uint64_t least_moved = 0;
  uint64_t most_moved = 0;
  double mean_moved = 0;

  double own_cpu = 0;
  uint64_t own_voluntary = 0;
  uint64_t own_involuntary = 0;
  double opening_seconds = 0;
  std::vector<ProcessResult> processes;
  NoiseResult noise;

  uint64_t stream_bytes() const { return bytes_up + bytes_down; }
  double processes_cpu() const {
    double sum = 0;
    for (const ProcessResult& process : processes) sum += process.cpu();
    return sum;
  }
};

}  // namespace virtproxy::bench
