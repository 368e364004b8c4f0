// Statistics as a list that is visited. The line of SIGUSR1, the text of the metrics and every
// other form of them are visitors.
//
// A family (StatInfo) has one or several samples, which differ in their labels. Each class that has
// statistics has a visit_stats(). Values are running totals, so they cost nothing until they are
// visited.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "core/time.h"
#include "uring/base/duration_histogram.h"

namespace virtproxy {

enum class StatKind : uint8_t {
  kCounter,  // only grows, from the start of the process
  kGauge,
  kHistogram,  // of durations: the sample has `histogram` and no value
};

// The unit of a sample's value, and how it is shown.
enum class StatUnit : uint8_t {
  kNone,
  kBytes,
  kSeconds,  // the value is in nanoseconds
};

struct StatInfo {
  std::string_view name;  // lower case, words joined by _; without its unit and without _total
  std::string_view help;  // one sentence, without a full stop
  StatKind kind = StatKind::kGauge;
  StatUnit unit = StatUnit::kNone;
};

struct StatLabel {
  std::string_view name;
  std::string_view value;
};

struct StatSample {
  uint64_t value = 0;
  // Its name in the line of SIGUSR1; empty if it is not part of that line. Samples of one channel
  // with the same word are added up there.
  std::string_view word{};
  std::span<const StatLabel> labels{};
  const DurationHistogram* histogram = nullptr;
};

class StatVisitor {
 public:
  // The views are valid until the call returns.
  virtual void visit(const StatInfo& info, const StatSample& sample) = 0;

 protected:
  ~StatVisitor() = default;
};

// A part of the process that has statistics of its own, for a channel that visits them with its own.
class StatSource {
 public:
  virtual void visit_stats(StatVisitor& visitor, Instant now) const = 0;

 protected:
  ~StatSource() = default;
};

}  // namespace virtproxy
