#include "uring/mux/stats_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <iterator>

namespace virtproxy {
namespace {

constexpr uint64_t kNanosecondsPerMicrosecond = 1000;
constexpr uint64_t kNanosecondsPerSecond = 1'000'000'000;

std::string_view unit_suffix(StatUnit unit) {
  switch (unit) {
    case StatUnit::kNone:
      return "";
    case StatUnit::kBytes:
      return "_bytes";
    case StatUnit::kSeconds:
      break;
  }
  return "_seconds";
}

std::string_view type_name(StatKind kind) {
  switch (kind) {
    case StatKind::kCounter:
      return "counter";
    case StatKind::kGauge:
      return "gauge";
    case StatKind::kHistogram:
      break;
  }
  return "histogram";
}

// Seconds, with a point as OpenMetrics wants it.
std::string bound_text(Duration bound) {
  std::string text = fmt::format("{:.6f}", seconds_of(bound));
  text.erase(text.find_last_not_of('0') + 1);
  return text.ends_with('.') ? text + "0" : text;
}

// A quotation mark is escaped in values only, not in help texts.
std::string escaped(std::string_view text, bool in_quotes) {
  std::string result;
  result.reserve(text.size());
  for (const char c : text) {
    if (c == '\n') {
      result += "\\n";
      continue;
    }
    if (c == '\\' || (in_quotes && c == '"')) result += '\\';
    result += c;
  }
  return result;
}

std::string label_text(std::string_view name, std::string_view value) {
  return fmt::format("{}=\"{}\"", name, escaped(value, true));
}

}  // namespace

void StatsLine::visit(const StatInfo& info, const StatSample& sample) {
  if (sample.word.empty()) return;  // as of every histogram
  const uint64_t value =
      info.unit == StatUnit::kSeconds
          ? (sample.value + kNanosecondsPerMicrosecond - 1) / kNanosecondsPerMicrosecond
          : sample.value;
  const auto found = std::find_if(values_.begin(), values_.end(),
                                  [&](const auto& entry) { return entry.first == sample.word; });
  if (found == values_.end()) {
    values_.emplace_back(sample.word, value);
  } else {
    found->second += value;
  }
}

std::string StatsLine::text() const {
  std::string line;
  for (const auto& [word, value] : values_) {
    fmt::format_to(std::back_inserter(line), "{}{}={}", line.empty() ? "" : " ", word, value);
  }
  return line;
}

void PrometheusText::set_common_label(std::string_view name, std::string_view value) {
  common_ = name.empty() ? "" : label_text(name, value);
}

PrometheusText::Family& PrometheusText::family_of(const StatInfo& info) {
  std::string name = fmt::format("virtproxy_{}{}{}", info.name, unit_suffix(info.unit),
                                 info.kind == StatKind::kCounter ? "_total" : "");
  const auto found = std::find_if(families_.begin(), families_.end(),
                                  [&](const Family& family) { return family.name == name; });
  if (found != families_.end()) return *found;
  const bool open = format_ == MetricsFormat::kOpenMetrics;
  // OpenMetrics names the family without the suffix of its samples.
  const std::string shown =
      open ? fmt::format("virtproxy_{}{}", info.name, unit_suffix(info.unit)) : name;
  std::string heading =
      fmt::format("# HELP {0} {1}.\n# TYPE {0} {2}\n", shown, escaped(info.help, open),
                  type_name(info.kind));
  if (open && info.unit != StatUnit::kNone) {
    heading += fmt::format("# UNIT {} {}\n", shown, unit_suffix(info.unit).substr(1));
  }
  families_.push_back({std::move(name), std::move(heading), {}});
  return families_.back();
}

void PrometheusText::visit(const StatInfo& info, const StatSample& sample) {
  Family& family = family_of(info);
  std::string labels = common_;
  for (const StatLabel& label : sample.labels) {
    if (!labels.empty()) labels += ',';
    labels += label_text(label.name, label.value);
  }
  if (info.kind == StatKind::kHistogram) return add_histogram(family, labels, *sample.histogram);
  family.samples += family.name;
  if (!labels.empty()) family.samples += '{' + labels + '}';
  const auto out = std::back_inserter(family.samples);
  if (info.unit == StatUnit::kSeconds) {
    fmt::format_to(out, " {}.{:09}\n", sample.value / kNanosecondsPerSecond,
                   sample.value % kNanosecondsPerSecond);
  } else {
    fmt::format_to(out, " {}\n", sample.value);
  }
}

void PrometheusText::add_histogram(Family& family, const std::string& labels,
                                   const DurationHistogram& histogram) {
  const auto out = std::back_inserter(family.samples);
  const std::string_view comma = labels.empty() ? "" : ",";
  const std::string all = labels.empty() ? "" : "{" + labels + "}";
  uint64_t count = 0;
  for (size_t i = 0; i <= DurationHistogram::kBounds.size(); ++i) {
    count += histogram.count(i);
    const std::string bound = i == DurationHistogram::kBounds.size()
                                  ? "+Inf"
                                  : bound_text(DurationHistogram::kBounds[i]);
    fmt::format_to(out, "{}_bucket{{{}{}le=\"{}\"}} {}\n", family.name, labels, comma, bound, count);
  }
  const auto sum = static_cast<uint64_t>(histogram.sum().count());
  fmt::format_to(out, "{}_sum{} {}.{:09}\n", family.name, all, sum / kNanosecondsPerSecond,
                 sum % kNanosecondsPerSecond);
  fmt::format_to(out, "{}_count{} {}\n", family.name, all, count);
}

std::string PrometheusText::text() const {
  std::string text;
  for (const Family& family : families_) text += family.heading + family.samples;
  if (format_ == MetricsFormat::kOpenMetrics) text += "# EOF\n";
  return text;
}

}  // namespace virtproxy
