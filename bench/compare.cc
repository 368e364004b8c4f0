#include "compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>

#include "report_parts.h"

namespace virtproxy::bench {
namespace {

using Json = nlohmann::ordered_json;

// Options that may differ: where the ends are is what is compared, or of no matter.
constexpr std::array<std::string_view, 4> kFree = {"connect", "listen", "sink", "process_trees"};
constexpr size_t kMostReports = 10000;

struct Known {
  const char* name;
  const char* pointer;
  bool lower_is_better;
};

// In the order of the table. A figure is shown when both sides have it and it is not 0.
constexpr std::array<Known, 13> kFigures = {{
    {"bytes_per_second", "/bytes_per_second", false},
    {"messages_per_second", "/messages_per_second", false},
    {"lines_per_second", "/lines_per_second", false},
    {"cpu_seconds_per_gb", "/processes_total/cpu_seconds_per_gb", true},
    {"cpu_us_per_message", "/processes_total/cpu_us_per_message", true},
    {"cpu_us_per_line", "/processes_total/cpu_us_per_line", true},
    {"rss_per_connection", "/processes_total/rss_per_connection", true},
    {"latency_p50", "/latency_ns/p50", true},
    {"latency_p99", "/latency_ns/p99", true},
    {"latency_max", "/latency_ns/max", true},
    {"age_p50", "/age_ns/p50", true},
    {"age_p99", "/age_ns/p99", true},
    {"age_max", "/age_ns/max", true},
}};

[[noreturn]] void refuse(const std::string& text) { throw Failure(Outcome::kUsage, text); }

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw file_failure("read", path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// A text of the report's top, or empty.
std::string text_of(const Json& report, const char* key) {
  const auto found = report.find(key);
  return found != report.end() && found->is_string() ? found->get<std::string>() : std::string();
}

std::vector<Json> split(const std::string& text, const std::string& name) {
  std::vector<Json> reports;
  // Documents one behind the other: each ends where its outermost brace closes.
  size_t depth = 0, begin = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        quoted = false;
      }
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{') {
      if (depth++ == 0) begin = i;
    } else if (c == '}' && depth > 0 && --depth == 0) {
      Json json = Json::parse(text.begin() + static_cast<ptrdiff_t>(begin),
                              text.begin() + static_cast<ptrdiff_t>(i + 1), nullptr, false);
      if (json.is_discarded()) refuse(fmt::format("{}: this is no JSON", name));
      // Lines of --interval may stand in front of a report.
      if (!json.contains("interval")) reports.push_back(std::move(json));
      if (reports.size() > kMostReports) refuse(fmt::format("{}: too many reports", name));
    }
  }
  if (depth > 0) refuse(fmt::format("{}: the last report is cut off", name));
  if (reports.empty()) refuse(fmt::format("{}: there is no report of virtproxy-bench in it", name));
  return reports;
}

void check(const Json& report, const std::string& name) {
  if (text_of(report, "tool") != "virtproxy-bench") {
    refuse(
        fmt::format("{}: this is no report of virtproxy-bench (run --json FILE writes one)", name));
  }
  const auto format = report.find("format");
  if (format == report.end() || !format->is_number_integer() || *format != kReportFormat) {
    refuse(fmt::format("{}: its format is {}, this program compares format {}", name,
                       format == report.end() ? "unknown" : format->dump(), kReportFormat));
  }
  const auto measured = report.find("measured");
  const auto code = report.find("exit_code");
  if (measured == report.end() || !measured->is_boolean() || !measured->get<bool>() ||
      code == report.end() || *code != 0) {
    const std::string why = text_of(report, "failure");
    refuse(fmt::format("{}: this run failed{}{}", name, why.empty() ? "" : ": ", why));
  }
  if (!report.contains("options") || !report["options"].is_object()) {
    refuse(fmt::format("{}: its options are missing", name));
  }
}

// That both measured the same load, with the same program.
void check_same(const Json& one, const std::string& name, const Json& other,
                const std::string& other_name) {
  const std::string mode = text_of(one, "mode"), other_mode = text_of(other, "mode");
  if (mode != other_mode) {
    refuse(fmt::format("these are different loads: {} has {}, {} has {}", name, mode, other_name,
                       other_mode));
  }
  const std::string version = text_of(one, "version"), other_version = text_of(other, "version");
  if (version != other_version) {
    refuse(fmt::format(
        "{} is of version {} of virtproxy-bench, {} of version {}: measure both with one", name,
        version.empty() ? "unknown" : version, other_name,
        other_version.empty() ? "unknown" : other_version));
  }
  const Json &options = one["options"], &others = other["options"];
  for (const auto& [key, value] : options.items()) {
    if (std::find(kFree.begin(), kFree.end(), key) != kFree.end()) continue;
    const auto found = others.find(key);
    const std::string there = found == others.end() ? "nothing" : found->dump();
    if (value.dump() != there) {
      refuse(fmt::format("these are different loads: --{} is {} in {}, {} in {}", key, value.dump(),
                         name, there, other_name));
    }
  }
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double number_at(const Json& report, const char* pointer) {
  const Json::json_pointer at(pointer);
  if (!report.contains(at) || !report.at(at).is_number()) return 0;
  return report.at(at).get<double>();
}

size_t noisy_reports(const std::string& text, const std::string& name) {
  const std::vector<Json> reports = split(text, name);
  const Json::json_pointer at("/noise/noisy");
  return static_cast<size_t>(std::count_if(reports.begin(), reports.end(), [&](const Json& report) {
    return report.contains(at) && report.at(at) == true;
  }));
}

}  // namespace

std::vector<ComparedFigure> compare_reports(const std::string& before, const std::string& after,
                                            const CompareOptions& options) {
  const std::vector<Json> old = split(before, options.before);
  const std::vector<Json> now = split(after, options.after);
  for (const Json& report : old) check(report, options.before);
  for (const Json& report : now) check(report, options.after);
  for (const Json& report : old) check_same(old.front(), options.before, report, options.before);
  for (const Json& report : now) check_same(old.front(), options.before, report, options.after);
  if (old.size() != now.size()) {
    refuse(fmt::format("{} has {} reports, {} has {}: they are compared in pairs", options.before,
                       old.size(), options.after, now.size()));
  }
  std::vector<ComparedFigure> found;
  for (const Known& known : kFigures) {
    std::vector<double> befores, afters, ratios;
    for (size_t i = 0; i < old.size(); ++i) {
      const double one = number_at(old[i], known.pointer), other = number_at(now[i], known.pointer);
      if (one <= 0 || other <= 0) continue;
      befores.push_back(one);
      afters.push_back(other);
      ratios.push_back(other / one);
    }
    if (ratios.empty()) continue;
    const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
    ComparedFigure figure{known.name,     known.lower_is_better, median(befores),
                          median(afters), median(ratios),        *least,
                          *most,          ratios.size()};
    const bool judges = options.figures.empty() ||
                        std::find(options.figures.begin(), options.figures.end(), figure.name) !=
                            options.figures.end();
    figure.worse = judges && (figure.lower_is_better ? figure.ratio > 1 + options.threshold
                                                     : figure.ratio < 1 - options.threshold);
    found.push_back(std::move(figure));
  }
  for (const std::string& name : options.figures) {
    if (std::none_of(found.begin(), found.end(),
                     [&name](const ComparedFigure& each) { return each.name == name; })) {
      std::string known;
      for (const ComparedFigure& each : found) known += (known.empty() ? "" : ", ") + each.name;
      refuse(fmt::format("--figure {}: both reports have {}", name, known));
    }
  }
  if (found.empty()) refuse("the two have no figure in common");
  return found;
}

Outcome compare(const CompareOptions& options) {
  const std::string before = read_file(options.before), after = read_file(options.after);
  const std::vector<ComparedFigure> figures = compare_reports(before, after, options);
  const size_t noisy = noisy_reports(before, options.before) + noisy_reports(after, options.after);
  const bool worse = std::any_of(figures.begin(), figures.end(),
                                 [](const ComparedFigure& each) { return each.worse; });
  if (options.json) {
    Json rows = Json::array();
    for (const ComparedFigure& each : figures) {
      rows.push_back({{"figure", each.name},
                      {"lower_is_better", each.lower_is_better},
                      {"before", each.before},
                      {"after", each.after},
                      {"ratio",
                       {{"median", each.ratio},
                        {"min", each.least},
                        {"max", each.most},
                        {"count", each.pairs}}},
                      {"worse", each.worse}});
    }
    const Json json = {{"threshold", options.threshold},
                       {"worse", worse},
                       {"noisy_reports", noisy},
                       {"figures", rows}};
    fmt::print("{}\n", json.dump(2));
  } else {
    fmt::print("{:<20} {:>14} {:>14} {:>7}  spread of {}\n", "", "before", "after", "ratio",
               figures.front().pairs == 1 ? "one pair: none"
                                          : fmt::format("{} pairs", figures.front().pairs));
    for (const ComparedFigure& each : figures) {
      fmt::print(
          "{:<20} {:>14.6g} {:>14.6g} {:>7.3f}  {:.3f} to {:.3f}{}\n", each.name, each.before,
          each.after, each.ratio, each.least, each.most,
          each.worse ? fmt::format("  WORSE by more than {:g} %", options.threshold * 100) : "");
    }
    if (noisy > 0) {
      fmt::print("{} of {} reports say that the machine was noisy: measure both again, in turn\n",
                 noisy, 2 * figures.front().pairs);
    }
  }
  return worse ? Outcome::kWorse : Outcome::kOk;
}

}  // namespace virtproxy::bench
