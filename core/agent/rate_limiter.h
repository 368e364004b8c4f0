// A token bucket: `rate` a second on average, `burst` at once.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/time.h"

namespace virtproxy::agent {

class RateLimiter {
 public:
  RateLimiter(uint32_t rate, uint32_t burst) : rate_(rate), burst_(burst), tokens_(burst) {}

  // Takes one token; false if there is none.
  bool take(Instant now) {
    if (last_ != Instant{} && now > last_) {
      tokens_ = std::min<double>(burst_, tokens_ + seconds_of(now - last_) * rate_);
    }
    last_ = now;
    if (tokens_ < 1) {
      ++refused_;
      return false;
    }
    tokens_ -= 1;
    return true;
  }
  uint64_t refused() const { return refused_; }

 private:
  const double rate_;
  const double burst_;
  double tokens_;
  Instant last_{};
  uint64_t refused_ = 0;
};

}  // namespace virtproxy::agent
