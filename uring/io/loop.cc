#include "uring/io/loop.h"

#include <algorithm>
#include <utility>

#include "uring/base/clock.h"

namespace virtproxy {

namespace {

constexpr unsigned kTimersPerTurn = 64;
// Newer kernels make a few dozen at a time, older ones all there are, and one channel may have
// thousands: what other channels have to send leaves between them.
constexpr unsigned kCompletionsPerTurn = 512;
// A limit passes in as many parts, each of which begins when the one before was noticed to be over.
constexpr int kPartsOfLimit = 10;

struct PartsLeft final : Timer::Owner {
  void expired(Timer&) override { --left; }

  int left = kPartsOfLimit;
};

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
  PartsLeft parts;
  Timer timer(timers_, &parts);
  while (!done()) {
    if (parts.left == 0) return Waited::kLate;
    if (!timer.armed()) timer.set(now_ + limit / kPartsOfLimit);
    if (const int failure = turn(); failure != 0) return tl::unexpected(failure);
  }
  return Waited::kDone;
}

}  // namespace virtproxy
