// The time that streams have waited for one reason, summed over all of them.
//
// Waits that go on are counted without looking at each: their number, and the sum of the times when
// they began, in nanoseconds modulo 2^64.
#pragma once

#include <cstdint>

#include "core/time.h"

namespace virtproxy {

class StallTotal {
 public:
  void begin(Instant since) {
    ++open_;
    begun_ += static_cast<uint64_t>(since.count());
  }
  // Of one that began at `since`.
  void end(Instant since, Instant now) {
    --open_;
    begun_ -= static_cast<uint64_t>(since.count());
    over_ += static_cast<uint64_t>((now - since).count());
  }
  // The same as end() and begin() at once.
  void renew(Instant since, Instant now) {
    begun_ += static_cast<uint64_t>((now - since).count());
    over_ += static_cast<uint64_t>((now - since).count());
  }
  // Those that go on are counted in `other` from now on, as if they began now.
  void move_to(StallTotal& other, Instant now) {
    other.open_ += open_;
    other.begun_ += open_ * static_cast<uint64_t>(now.count());
    over_ = until(now);
    open_ = begun_ = 0;
  }

  uint64_t open() const { return open_; }
  // Nanoseconds, up to `now`.
  uint64_t until(Instant now) const {
    return over_ + static_cast<uint64_t>(now.count()) * open_ - begun_;
  }

 private:
  uint64_t open_ = 0;
  uint64_t begun_ = 0;
  uint64_t over_ = 0;
};

}  // namespace virtproxy
