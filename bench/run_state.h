// What the supervisor and the client thread share.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>

#include "counters.h"
#include "failure.h"

namespace virtproxy::bench {

enum class Phase { kOpening, kWarmup, kMeasure, kDrain, kAbort };

struct RunState {
  // Set by the supervisor (which then wakes the client).
  std::atomic<Phase> phase{Phase::kOpening};

  // Set by the client.
  Counters counters;
  Counter waiting_for;  // connections that expect something to happen
  Counter closed;       // connections that have come to their end
  std::atomic<bool> opened{false};
  std::atomic<bool> finished{false};
  std::atomic<bool> failed{false};

  // The first failure, and how many connections shared its fate.
  struct Report {
    Outcome outcome = Outcome::kOk;
    std::string text;
    size_t connections = 0;
  };

  void fail(Outcome outcome, std::string text) {
    {
      const std::lock_guard lock(mutex_);
      if (report_.connections++ == 0) {
        report_.text = std::move(text);
        report_.outcome = outcome;
      }
    }
    failed.store(true, std::memory_order_release);
    notify();
  }
  Report report() const {
    const std::lock_guard lock(mutex_);
    return report_;
  }

  // The client calls notify() after it changed one of the flags above.
  void notify() {
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
  }
  void wait_until(std::chrono::steady_clock::time_point deadline) {
    std::unique_lock lock(mutex_);
    if (!finished.load() && !failed.load()) changed_.wait_until(lock, deadline);
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Report report_;
};

}  // namespace virtproxy::bench
