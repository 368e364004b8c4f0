// Timers of one thread, ordered by expiry; those due at one time in the order in which they were
// set. A timer belongs to its owner, which is told when it is due; setting it again moves it,
// destroying it disarms it.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <tuple>

#include "core/time.h"

namespace virtproxy {

class Timers;

class Timer {
 public:
  class Owner {
   public:
    virtual void expired(Timer& timer) = 0;

   protected:
    ~Owner() = default;
  };

  Timer(Timers& timers, Owner* owner) : timers_(timers), owner_(owner) {}
  ~Timer() { clear(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  void set(Instant at);
  void clear();
  bool armed() const { return at_.has_value(); }

 private:
  friend class Timers;
  Timers& timers_;
  Owner* owner_;
  std::optional<Instant> at_;
  uint64_t order_ = 0;
};

class Timers {
 public:
  std::optional<Instant> next() const {
    if (armed_.empty()) return std::nullopt;
    return std::get<Instant>(*armed_.begin());
  }

  // Those that are due, at most `most` of them: what is left is due in the next turn. A peer may
  // have set thousands of them for one instant.
  void expire(Instant now, unsigned most) {
    for (; most > 0 && !armed_.empty() && std::get<Instant>(*armed_.begin()) <= now; --most) {
      Timer& timer = *std::get<Timer*>(*armed_.begin());
      timer.clear();
      timer.owner_->expired(timer);
    }
  }

 private:
  friend class Timer;
  std::set<std::tuple<Instant, uint64_t, Timer*>> armed_;
  uint64_t set_ = 0;
};

inline void Timer::set(Instant at) {
  clear();
  at_ = at;
  order_ = timers_.set_++;
  timers_.armed_.emplace(at, order_, this);
}

inline void Timer::clear() {
  if (!at_) return;
  timers_.armed_.erase({*at_, order_, this});
  at_.reset();
}

}  // namespace virtproxy
