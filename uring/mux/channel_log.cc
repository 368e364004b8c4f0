#include "uring/mux/channel_log.h"

#include <utility>

namespace virtproxy {

void ChannelLog::changed(std::string state, LogLevel level) {
  state_ = std::move(state);
  level_ = level;
  if (summary_.armed() || !limit_.allow(loop_.now())) {
    ++hidden_;
    if (!summary_.armed()) summary_.set(loop_.now() + std::chrono::seconds(1));
    return;
  }
  log_at(level_, "channel {}: {}", channel_, state_);
}

void ChannelLog::expired(Timer&) {
  const uint64_t before = std::exchange(hidden_, 0) - 1;
  log_at(level_, "channel {}: {}{}", channel_, state_,
         before > 0 ? " (and " + std::to_string(before) + " changes before)" : "");
}

}  // namespace virtproxy
