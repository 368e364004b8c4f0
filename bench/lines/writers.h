// The writers of numbered lines: a thread each, which writes as an application does, one blocking
// call after the other.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "failure.h"
#include "lines/plan.h"

namespace virtproxy::bench::lines {

struct WriterStats {
  std::atomic<uint64_t> used{0};  // numbers that a write was begun for
  std::atomic<uint64_t> sent{0};  // lines that the kernel has taken whole
  std::atomic<uint64_t> reconnects{0};
  std::atomic<int64_t> longest_write_ns{0};
  std::atomic<bool> done{false};
};

class Writers {
 public:
  explicit Writers(const LinesPlan& plan);
  ~Writers();

  // Returns at once; the threads connect and begin.
  void start();
  // They end after the line that they are writing. A write that blocks is given up after a second.
  void stop();
  void join();

  const WriterStats& stats(size_t writer) const { return stats_[writer]; }
  uint64_t sent() const;
  uint64_t used() const;
  bool done() const;
  // The first failure, empty if there was none.
  std::string failure(Outcome& outcome) const;

 private:
  class Thread;

  void fail(Outcome outcome, std::string text);

  const LinesPlan& plan_;
  const LineMaker maker_;
  std::vector<WriterStats> stats_;
  std::vector<std::thread> threads_;
  std::atomic<bool> stopping_{false};
  std::mutex pipe_mutex_;  // lines of several writers in one pipe stay whole
  int pipe_ = -1;

  mutable std::mutex failure_mutex_;
  Outcome outcome_ = Outcome::kOk;
  std::string failure_;
};

}  // namespace virtproxy::bench::lines
