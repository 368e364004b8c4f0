// One thread's event loop: a driver, its timers and its clock, and the order of a turn.
//
//   1. submit what the last turn queued and sleep until something completes or a timer is due
//   2. hand out every completion, then every timer that is due
//   3. run what was deferred: each object that asked for it in this turn writes once what has
//      piled up
//
// Nothing blocks anywhere else. What one thread owns, no other touches.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <tl/expected.hpp>
#include <utility>
#include <vector>

#include "uring/base/clock.h"
#include "uring/base/duration_histogram.h"
#include "uring/base/running_clock.h"
#include "uring/io/arena.h"
#include "uring/io/driver.h"
#include "uring/io/timers.h"

namespace virtproxy {

class Loop {
 public:
  // Runs in the third step of every turn.
  class Deferred {
   public:
    virtual void run_deferred() = 0;

   protected:
    ~Deferred() = default;
  };

  explicit Loop(std::unique_ptr<Driver> driver)
      : driver_(std::move(driver)), ended_(monotonic_now()) {}

  Driver& driver() { return *driver_; }
  Timers& timers() { return timers_; }
  Arena& arena() { return arena_; }
  // The time at the start of this turn's second step, by the clock of running_clock.h: every timer
  // and every limit of what this loop drives is by this clock.
  Instant now() const { return clock_.now(); }
  // The same time by the monotonic clock.
  Instant woke_at() const { return clock_.woke_at(); }

  // What this turn has taken so far, the wait for it left out. Reads the clock.
  Duration spent() const { return clock_.spent(); }
  // The longest turn since the last call. A wait that may sleep is no part of it.
  Duration take_longest() { return std::exchange(longest_, Duration::zero()); }

  // Of all turns so far, as take_longest() counts them.
  const DurationHistogram& turns() const { return turns_; }

  // Calls run_deferred() in this turn, or in the next one when called from there. The caller asks
  // at most once.
  void defer(Deferred* deferred) { deferred_.push_back(deferred); }
  // For an object that goes before it was called. Not from run_deferred().
  void forget(Deferred* deferred) { std::erase(deferred_, deferred); }
  // The next turn must not sleep.
  void hurry() { hurried_ = true; }

  // Returns 0, or a negative errno when the driver is broken.
  int turn();

  // Turns until done(), which is asked before each of them, or until `limit` has passed and what
  // was ready by then is handed out. A negative errno as turn() returns it.
  enum class Waited : uint8_t { kDone, kLate };
  tl::expected<Waited, int> turn_until(Duration limit, const std::function<bool()>& done);

 private:
  std::unique_ptr<Driver> driver_;
  Timers timers_;
  Arena arena_;
  RunningClock clock_;
  Instant ended_;  // the last turn, by the monotonic clock
  Duration longest_{};
  DurationHistogram turns_;
  bool hurried_ = false;
  std::vector<Deferred*> deferred_;
  std::vector<Deferred*> running_;
};

// Asks a loop to run an object's deferred work, however often it is asked to: once.
class Wakeup {
 public:
  Wakeup(Loop& loop, Loop::Deferred* deferred) : loop_(loop), deferred_(deferred) {}
  ~Wakeup() {
    if (awake_) loop_.forget(deferred_);
  }
  Wakeup(const Wakeup&) = delete;
  Wakeup& operator=(const Wakeup&) = delete;

  void wake() {
    if (awake_) return;
    awake_ = true;
    loop_.defer(deferred_);
  }
  // To be called first in run_deferred(): what asks from now on is for the next turn.
  void begin() { awake_ = false; }

 private:
  Loop& loop_;
  Loop::Deferred* deferred_;
  bool awake_ = false;
};

// How much of one kind of work a turn takes, so that the other channels of the thread have theirs
// soon. What is left is for the next turn. At least one piece of work gets done.
class TurnBudget {
 public:
  static constexpr Duration kTime = std::chrono::microseconds(200);

  // At most `most` pieces, and none is begun that long after this.
  explicit TurnBudget(const Loop& loop, unsigned most = std::numeric_limits<unsigned>::max(),
                      Duration time = kTime)
      : loop_(loop), left_(most), ends_(loop.spent() + time) {}

  bool left() const { return left_ > 0; }
  // One more piece is done.
  void spend() { left_ = loop_.spent() > ends_ ? 0 : left_ - 1; }

 private:
  const Loop& loop_;
  unsigned left_;
  Duration ends_;
};

}  // namespace virtproxy
