// A limit that does not pass while the process is stopped, or its machine stands still: the time
// passes in parts, each of which begins when the one before was noticed to be over. A pause of any
// length, or a turn that takes long, counts for one part at most.
#pragma once

#include <functional>
#include <utility>

#include "uring/io/loop.h"

namespace virtproxy {

class PartedTimer final : private Timer::Owner {
 public:
  // `passed` is called in a turn of the loop, which outlives this.
  PartedTimer(Loop& loop, std::function<void()> passed)
      : loop_(loop), timer_(loop.timers(), this), passed_(std::move(passed)) {}

  void set(Duration limit) {
    part_ = limit / kParts;
    left_ = kParts;
    timer_.set(loop_.now() + part_);
  }
  void clear() { timer_.clear(); }
  bool armed() const { return timer_.armed(); }

 private:
  static constexpr int kParts = 10;

  void expired(Timer&) override {
    if (--left_ == 0) return passed_();
    timer_.set(loop_.now() + part_);
  }

  Loop& loop_;
  Timer timer_;
  std::function<void()> passed_;
  Duration part_{};
  int left_ = 0;
};

}  // namespace virtproxy
