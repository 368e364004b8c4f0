#pragma once

#include <cstdint>
#include <vector>

#include "result.h"

namespace virtproxy::bench {

// What had been moved at a moment of the measurement, in the unit that matters for the mode.
struct Tick {
  int64_t time;
  uint64_t moved;
};

// Fills in the spread, over up to eight intervals, and the reasons to disbelieve the run.
void judge_noise(const std::vector<Tick>& ticks, bool judge_switches, NoiseResult& noise);

}  // namespace virtproxy::bench
