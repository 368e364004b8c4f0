// Visitors of statistics (stats.h) that format them as text.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "uring/mux/stats.h"

namespace virtproxy {

// One line for the log: WORD=VALUE WORD=VALUE …, seconds as microseconds.
class StatsLine final : public StatVisitor {
 public:
  void visit(const StatInfo& info, const StatSample& sample) override;
  // In the order in which the words came first.
  std::string text() const;

 private:
  std::vector<std::pair<std::string, uint64_t>> values_;
};

enum class MetricsFormat : uint8_t {
  kPrometheus,   // the text format of Prometheus, version 0.0.4
  kOpenMetrics,  // OpenMetrics 1.0.0
};

// Names begin with virtproxy_ and end with the unit, then with _total for counters. One object may
// visit many channels: the samples of a family stand together, as the formats demand.
class PrometheusText final : public StatVisitor {
 public:
  explicit PrometheusText(MetricsFormat format = MetricsFormat::kPrometheus) : format_(format) {}

  // Goes before the labels of each sample that is visited from now on; empty: no such label.
  void set_common_label(std::string_view name, std::string_view value);
  void visit(const StatInfo& info, const StatSample& sample) override;
  // Families in the order in which they were visited first.
  std::string text() const;

 private:
  struct Family {
    std::string name;     // of its samples, with the suffixes
    std::string heading;  // HELP and TYPE
    std::string samples;
  };
  Family& family_of(const StatInfo& info);

  void add_histogram(Family& family, const std::string& labels, const DurationHistogram& histogram);

  const MetricsFormat format_;
  std::string common_;  // a label, ready to be written
  std::vector<Family> families_;
};

}  // namespace virtproxy
