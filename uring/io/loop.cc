#include "uring/io/loop.h"

#include <algorithm>
#include <utility>

namespace virtproxy {

namespace {

constexpr unsigned kTimersPerTurn = 64;
// Newer kernels make a few dozen at a time, older ones all there are, and one channel may have
// thousands: what other channels have to send leaves between them.
constexpr unsigned kCompletionsPerTurn = 512;
// Of turn_until(), behind its limit.
constexpr unsigned kLateTurns = 8;

}  // namespace

int Loop::turn() {
  const std::optional<Instant> due = timers_.next();
  // Somebody may have asked before the first turn: a device that was there at the start.
  const bool sleeps = !hurried_ && deferred_.empty() && !(due && *due <= now());
  hurried_ = false;
  std::optional<Instant> until;
  if (!sleeps) {
    until = Driver::kNow;
  } else if (due) {
    until = clock_.sleep_until(*due);
  }
  const Instant begun = ended_;
  const int result = driver_->wait(until);
  if (result < 0) return result;
  if (driver_->submitted()) arena_.reset();
  clock_.woke(until, driver_->take_file_time());
  if (driver_->dispatch(kCompletionsPerTurn)) hurry();
  timers_.expire(now(), kTimersPerTurn);
  std::swap(running_, deferred_);
  for (Deferred* deferred : running_) deferred->run_deferred();
  running_.clear();
  ended_ = monotonic_now();
  const Duration taken = ended_ - (sleeps ? woke_at() : begun);
  longest_ = std::max(longest_, taken);
  turns_.add(taken);
  return 0;
}

tl::expected<Loop::Waited, int> Loop::turn_until(Duration limit,
                                                 const std::function<bool()>& done) {
  struct Limit final : Timer::Owner {
    void expired(Timer&) override { late = true; }
    bool late = false;
  } over;
  Timer timer(timers_, &over);
  timer.set(now() + limit);
  for (unsigned late_turns = 0; !done();) {
    // The last pause may have been longer than what was left: what is ready then has its turns.
    if (over.late && ++late_turns > kLateTurns) return Waited::kLate;
    if (over.late) hurry();
    if (const int failure = turn(); failure != 0) return tl::unexpected(failure);
  }
  return Waited::kDone;
}

}  // namespace virtproxy
