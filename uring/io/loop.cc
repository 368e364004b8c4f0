#include "uring/io/loop.h"

#include <algorithm>
#include <utility>

#include "uring/base/clock.h"
#include "uring/io/parted_timer.h"

namespace virtproxy {

namespace {

constexpr unsigned kTimersPerTurn = 64;
// Newer kernels make a few dozen at a time, older ones all there are, and one channel may have
// thousands: what other channels have to send leaves between them.
constexpr unsigned kCompletionsPerTurn = 512;

}  // namespace

void Loop::update_clock() { now_ = monotonic_now(); }

Duration Loop::spent() const { return monotonic_now() - now_; }

int Loop::turn() {
  std::optional<Instant> deadline = timers_.next();
  // Somebody may have asked before the first turn: a device that was there at the start.
  if (hurried_ || !deferred_.empty() || (deadline && *deadline <= now_)) deadline = Driver::kNow;
  hurried_ = false;
  const bool sleeps = deadline != Driver::kNow;
  const Instant begun = ended_;
  const int result = driver_->wait(deadline);
  if (result < 0) return result;
  if (driver_->submitted()) arena_.reset();
  update_clock();
  if (driver_->dispatch(kCompletionsPerTurn)) hurry();
  timers_.expire(now_, kTimersPerTurn);
  std::swap(running_, deferred_);
  for (Deferred* deferred : running_) deferred->run_deferred();
  running_.clear();
  ended_ = monotonic_now();
  const Duration taken = ended_ - (sleeps ? now_ : begun);
  longest_ = std::max(longest_, taken);
  turns_.add(taken);
  return 0;
}

tl::expected<Loop::Waited, int> Loop::turn_until(Duration limit,
                                                 const std::function<bool()>& done) {
  bool late = false;
  PartedTimer timer(*this, [&late] { late = true; });
  timer.set(limit);
  while (!done()) {
    if (late) return Waited::kLate;
    if (const int failure = turn(); failure != 0) return tl::unexpected(failure);
  }
  return Waited::kDone;
}

}  // namespace virtproxy
