// Whether a thread that has nothing to do should spin for the next completion for a moment before
// it sleeps.
//
// To sleep and be woken costs a message more than all else that happens to it, the more so where
// the processor is virtual and idle meanwhile. It is worth avoiding while one conversation goes
// back and forth and nothing else happens: each turn passes one message on, and the answer to it
// is what comes next. While it spins the thread yields, so that other threads come first.
//
// It does not pay where the answer takes its time, or where somebody else wants the processor and a
// yield lasts a time slice. So a balance is kept: a spin that was in time gains a little, one that
// was in vain or late costs the time it took. Without a balance the thread does not spin for so
// many messages, the more of them the more often that has happened. (KVM's halt polling learns how
// long to poll for the same reason.)
#pragma once

#include <algorithm>
#include <chrono>

#include "core/time.h"

namespace virtproxy {

class BusyPoll {
 public:
  // Longer than it takes to wake a process on an idle virtual processor.
  static constexpr Duration kLongest = std::chrono::microseconds(50);

  // Asked before each sleep. `passed_on`: this turn has passed one message on, and done nothing
  // else.
  bool worth_it(bool passed_on) {
    in_row_ = passed_on ? std::min(in_row_ + 1, kConversation) : 0;
    if (in_row_ < kConversation) return false;
    if (balance_ > Duration::zero()) return true;
    if (++skipped_ < pause_) return false;
    skipped_ = 0;
    pause_ = std::min(2 * pause_, kLongestPause);
    balance_ = kAllowance;
    return true;
  }

  // After each spin.
  void spun(Duration took) {
    balance_ = std::min(balance_ + (took <= kLongest ? kGain : -took), kMostBalance);
    if (balance_ == kMostBalance) pause_ = kFirstPause;
  }

 private:
  static constexpr int kConversation = 8;  // messages in a row
  // What a sleep costs where that is cheapest.
  static constexpr Duration kGain = std::chrono::microseconds(5);
  static constexpr Duration kAllowance = std::chrono::microseconds(100);
  static constexpr Duration kMostBalance = std::chrono::milliseconds(5);
  static constexpr unsigned kFirstPause = 64;  // messages
  static constexpr unsigned kLongestPause = 65536;

  int in_row_ = 0;
  Duration balance_ = kAllowance;
  unsigned pause_ = kFirstPause;
  unsigned skipped_ = 0;
};

}  // namespace virtproxy
