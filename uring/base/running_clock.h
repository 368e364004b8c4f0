// A clock for limits: monotonic time without what passed while the process was stopped, or its
// machine stood still. What was to happen within a limit had no chance to happen in that time, and
// its limit must not be over because of it.
//
// The process cannot see that it was stopped. What it sees is that it woke later than it meant to,
// or that it was long at work: time goes on by kLate beyond the former, and by kLate for the
// latter, at most. To notice a pause in the middle of a sleep, one of more than kWhole is cut: no
// pause, however long, takes more than half of what is left of such a limit, and kLate. What is
// known to have been work counts in full, and a pause in it with it.
//
// It is for limits alone: not for times that people see, for rates that are promised, or for what
// another process expects in real time.
#pragma once

#include <algorithm>
#include <optional>

#include "core/time.h"
#include "uring/base/clock.h"

namespace virtproxy {

class RunningClock {
 public:
  RunningClock() : woke_(monotonic_now()), now_(woke_) {}

  // Since an origin of its own: times of two such clocks say nothing about each other.
  Instant now() const { return now_; }

  // Until when to sleep, by the monotonic clock, if the next limit ends at `limit`: before its end
  // where much is left of it. May have passed.
  Instant sleep_until(Instant limit) const {
    const Duration left = limit - now_;
    return (left > kWhole ? now_ + left / 2 : limit) + stood_still_;
  }

  // To be called after each sleep, with what sleep_until() returned, or any time before now if it
  // did not sleep, or nothing if it slept without a limit. `worked`: what of the time since the
  // last call is known to have been spent at work.
  void woke(std::optional<Instant> until, Duration worked = {}) {
    const Instant before = woke_;
    woke_ = monotonic_now();
    if (until) {
      const Duration late = woke_ - std::max(*until, before) - worked;
      stood_still_ += std::max(late - kLate, Duration::zero());
    }
    now_ = woke_ - stood_still_;
  }
  // When that was, by the monotonic clock.
  Instant woke_at() const { return woke_; }

  // Since it woke, by the monotonic clock.
  Duration spent() const { return monotonic_now() - woke_; }

 private:
  static constexpr Duration kLate = std::chrono::milliseconds(100);
  static constexpr Duration kWhole = std::chrono::milliseconds(400);

  Instant woke_;  // by the monotonic clock, as the others in this class are not
  Instant now_;
  Duration stood_still_{};
};

}  // namespace virtproxy
