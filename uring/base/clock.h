// The monotonic clock, read by the C function so that a simulation can replace it.
#pragma once

#include <time.h>

#include "core/time.h"

namespace virtproxy {

inline Instant monotonic_now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

}  // namespace virtproxy
