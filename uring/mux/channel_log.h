// Logs that a channel is up or down, and why.
//
// A peer that comes and goes as fast as it can must not fill the log: then lines are held back and
// counted. The last line is always the present state.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "uring/base/log.h"
#include "uring/io/loop.h"

namespace virtproxy {

class ChannelLog final : private Timer::Owner {
 public:
  ChannelLog(Loop& loop, unsigned channel)
      : loop_(loop), channel_(channel), summary_(loop.timers(), this) {}

  // `state` completes "channel N: ".
  void changed(std::string state, LogLevel level = LogLevel::kInfo);

 private:
  static constexpr unsigned kLinesPerSecond = 20;

  void expired(Timer& timer) override;

  Loop& loop_;
  unsigned channel_;
  Timer summary_;
  std::string state_;
  LogLevel level_ = LogLevel::kInfo;
  uint64_t hidden_ = 0;
  RateLimit limit_{kLinesPerSecond};
};

}  // namespace virtproxy
