// Timers of one thread, ordered by expiry. A timer belongs to its owner, which is told when it is
// due; setting it again moves it, destroying it disarms it.
#pragma once

#include <optional>
#include <set>
#include <utility>

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
};

class Timers {
 public:
  std::optional<Instant> next() const {
    if (armed_.empty()) return std::nullopt;
    return armed_.begin()->first;
  }

  void expire(Instant now) {
    while (!armed_.empty() && armed_.begin()->first <= now) {
      Timer& timer = *armed_.begin()->second;
      timer.clear();
      timer.owner_->expired(timer);
    }
  }

 private:
  friend class Timer;
  std::set<std::pair<Instant, Timer*>> armed_;
};

inline void Timer::set(Instant at) {
  clear();
  at_ = at;
  timers_.armed_.emplace(at, this);
}

inline void Timer::clear() {
  if (!at_) return;
  timers_.armed_.erase({*at_, this});
  at_.reset();
}

}  // namespace virtproxy
