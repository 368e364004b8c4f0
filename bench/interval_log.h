// `--interval`: one JSON object a line on standard output while load runs.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "process_stats.h"

namespace virtproxy::bench {

class IntervalLog {
 public:
  // `interval`: seconds; 0: nothing is ever written. Processes are sampled at each interval's end.
  IntervalLog(double interval, std::vector<pid_t> pids, bool trees);

  bool enabled() const { return interval_ns_ > 0; }
  void start(int64_t now_ns);
  // Whether an interval has ended.
  bool due(int64_t now_ns) const { return enabled() && started_ && now_ns >= next_; }
  // When it will end; never, when there are none.
  int64_t next() const { return enabled() && started_ ? next_ : INT64_MAX; }
  // Seconds since the last line.
  double length(int64_t now_ns) const;
  // Seconds from the start to the beginning of this interval.
  double begin() const;
  // Writes {"interval", "start", "seconds"}, `fields`, and the processes' {"cpu_seconds", "rss"}.
  void write(int64_t now_ns, const nlohmann::ordered_json& fields);

 private:
  int64_t interval_ns_;
  std::vector<pid_t> pids_;
  bool trees_;
  bool started_ = false;
  int64_t start_ = 0;
  int64_t last_ = 0;
  int64_t next_ = 0;
  uint64_t number_ = 0;
  std::vector<ProcessSample> before_;
};

}  // namespace virtproxy::bench
