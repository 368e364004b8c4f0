// The core reads no clock: every call that depends on time is handed `now`, a monotonic time since
// an origin that only the caller knows.
#pragma once

#include <chrono>

namespace virtproxy {

using Instant = std::chrono::nanoseconds;
using Duration = std::chrono::nanoseconds;

inline double seconds_of(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}
inline Duration to_duration(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

}  // namespace virtproxy
