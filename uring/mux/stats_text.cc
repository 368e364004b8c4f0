#include "uring/mux/stats_text.h"

#include <fmt/format.h>

#include <algorithm>
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
  if (sample.word.empty()) return;
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
  std::string heading =
      fmt::format("# HELP {0} {1}.\n# TYPE {0} {2}\n", name, escaped(info.help, false),
                  info.kind == StatKind::kCounter ? "counter" : "gauge");
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

std::string PrometheusText::text() const {
  std::string text;
  for (const Family& family : families_) text += family.heading + family.samples;
  return text;
}

}  // namespace virtproxy
