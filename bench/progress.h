#pragma once

#include <cstdint>
#include <string>

#include "plan.h"

namespace virtproxy::bench {

// One line on stderr, rewritten at most every 250 ms.
class ProgressLine {
 public:
  ProgressLine(const Plan& plan, bool enabled) : plan_(plan), enabled_(enabled) {}
  ~ProgressLine() { clear(); }

  void show(const char* phase, int64_t now, int64_t phase_start, uint64_t bytes, uint64_t messages);
  void clear();

 private:
  const Plan& plan_;
  const bool enabled_;
  int64_t shown_at_ = 0;
  uint64_t bytes_ = 0;
  uint64_t messages_ = 0;
};

}  // namespace virtproxy::bench
