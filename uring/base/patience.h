// For code that may block: tries something again until it succeeds or a limit has passed. Time in
// which the process was stopped does not count (running_clock.h).
#pragma once

#include <thread>

#include "uring/base/running_clock.h"

namespace virtproxy {

class Patience {
 public:
  explicit Patience(Duration limit) : limit_(limit) {}

  Duration waited() const { return clock_.now() - begun_; }
  Duration left() const { return limit_ - waited(); }
  // False, at once and with errno as it was, if the limit has passed. Otherwise sleeps for so long.
  bool wait(Duration interval) {
    if (left() <= Duration::zero()) return false;
    const Instant until = clock_.woke_at() + interval;
    std::this_thread::sleep_for(interval);
    clock_.woke(until);
    return true;
  }

 private:
  const Duration limit_;
  RunningClock clock_;
  const Instant begun_ = clock_.now();
};

}  // namespace virtproxy
