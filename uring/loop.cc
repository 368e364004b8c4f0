#include "uring/loop.h"

#include <chrono>
#include <utility>

namespace virtproxy {

namespace {

constexpr unsigned kTimersPerTurn = 64;

Instant read_clock() {
  return std::chrono::duration_cast<Instant>(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace

void Loop::update_clock() { now_ = read_clock(); }

Duration Loop::spent() const { return read_clock() - now_; }

int Loop::turn() {
  std::optional<Instant> deadline = timers_.next();
  // Somebody may have asked before the first turn: a device that was there at the start.
  if (hurried_ || !finishers_.empty() || (deadline && *deadline <= now_)) deadline = Ring::kNow;
  hurried_ = false;
  const int result = ring_->wait(deadline);
  if (result < 0) return result;
  if (ring_->submitted()) arena_.reset();
  update_clock();
  ring_->dispatch();
  timers_.expire(now_, kTimersPerTurn);
  std::swap(finishing_, finishers_);
  for (Finisher* finisher : finishing_) finisher->finish_turn();
  finishing_.clear();
  return 0;
}

}  // namespace virtproxy
