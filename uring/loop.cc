#include "uring/loop.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace virtproxy {

void Loop::update_clock() {
  now_ = std::chrono::duration_cast<Instant>(std::chrono::steady_clock::now().time_since_epoch());
}

int Loop::turn() {
  std::optional<Duration> timeout;
  // Somebody may have asked before the first turn: a device that was there at the start.
  if (hurried_ || !finishers_.empty()) {
    timeout = Duration::zero();
  } else if (const auto next = timers_.next()) {
    update_clock();
    timeout = std::max(*next - now_, Duration::zero());
  }
  hurried_ = false;
  const int result = ring_->wait(timeout);
  if (result < 0) return result;
  if (ring_->submitted()) arena_.reset();
  update_clock();
  ring_->dispatch();
  timers_.expire(now_);
  std::swap(finishing_, finishers_);
  for (Finisher* finisher : finishing_) finisher->finish_turn();
  finishing_.clear();
  return 0;
}

}  // namespace virtproxy
