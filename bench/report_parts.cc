#include "report_parts.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "process_stats.h"

namespace virtproxy::bench {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

void add_row(std::string& out, std::string_view label, std::string_view text) {
  out += fmt::format("  {:<13} {}\n", label, text);
}

std::string bytes_text(double bytes) {
  constexpr std::array<const char*, 4> kUnits = {"B", "KiB", "MiB", "GiB"};
  size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < kUnits.size(); ++unit) bytes /= 1024;
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, kUnits[unit]);
}

std::string time_text(uint64_t ns) {
  const auto value = static_cast<double>(ns);
  if (ns < 1'000'000) return fmt::format("{:.1f} µs", value / 1e3);
  if (ns < 1'000'000'000) return fmt::format("{:.2f} ms", value / 1e6);
  return fmt::format("{:.2f} s", value / 1e9);
}

std::string percentiles_text(const Histogram& h) {
  return fmt::format("p50 {}  p90 {}  p99 {}  p99.9 {}  p99.99 {}  max {}",
                     time_text(h.percentile(50)), time_text(h.percentile(90)),
                     time_text(h.percentile(99)), time_text(h.percentile(99.9)),
                     time_text(h.percentile(99.99)), time_text(h.max()));
}

void add_noise(const NoiseResult& noise, std::string& out) {
  std::string text;
  for (const std::string& reason : noise.reasons) {
    text += (text.empty() ? "NOISY, do not believe these figures: " : "; ") + reason;
  }
  if (text.empty()) text = noise.judged() ? "quiet" : "quiet, but too short to judge the spread";
  add_row(out, "machine", text);
  add_row(
      out, "",
      fmt::format("steal {:.1f} %, iowait {:.1f} %, others {}, spread {}", noise.steal * 100,
                  noise.iowait * 100,
                  noise.foreign_known ? fmt::format("{:.1f} %", noise.foreign * 100) : "unknown",
                  noise.judged() ? fmt::format("{:.0f} %", noise.spread * 100) : "unknown"));
  add_row(out, "", fmt::format("({})", NoiseResult::criterion()));
}

Json report_head(std::string_view mode) {
  const MachineInfo machine = machine_info();
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  return {{"tool", "virtproxy-bench"},
          {"format", kReportFormat},
          {"version", VIRTPROXY_VERSION},
          {"date", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(now))},
          {"machine", {{"kernel", machine.kernel}, {"cpu", machine.cpu}, {"cpus", machine.cpus}}},
          {"mode", mode}};
}

Json histogram_json(const Histogram& histogram) {
  return {{"count", histogram.count()},
          {"min", histogram.min()},
          {"mean", histogram.mean()},
          {"p50", histogram.percentile(50)},
          {"p90", histogram.percentile(90)},
          {"p99", histogram.percentile(99)},
          {"p99_9", histogram.percentile(99.9)},
          {"p99_99", histogram.percentile(99.99)},
          {"max", histogram.max()}};
}

Json process_json(const ProcessResult& process) {
  const ProcessSample& from = process.before;
  const ProcessSample& to = process.after;
  // A child that ended in between takes its switches along.
  const auto grown = [](uint64_t after, uint64_t before) {
    return after > before ? after - before : 0;
  };
  return {{"pid", process.pid},
          {"name", process.name},
          {"alive", to.alive},
          {"processes", to.processes},
          {"cpu_seconds", process.cpu()},
          {"user_seconds", to.user - from.user},
          {"system_seconds", to.system - from.system},
          {"voluntary_switches", grown(to.voluntary, from.voluntary)},
          {"involuntary_switches", grown(to.involuntary, from.involuntary)},
          {"rss_before_load", process.idle.rss},
          {"rss", to.rss},
          {"peak_rss", to.peak_rss}};
}

Json noise_json(const NoiseResult& noise) {
  return {{"noisy", !noise.reasons.empty()},
          {"spread_judged", noise.judged()},
          {"reasons", noise.reasons},
          {"steal", noise.steal},
          {"iowait", noise.iowait},
          {"foreign_cpu", noise.foreign_known ? Json(noise.foreign) : Json(nullptr)},
          {"own_involuntary_per_second", noise.involuntary},
          {"spread", noise.judged() ? Json(noise.spread) : Json(nullptr)},
          {"intervals", noise.intervals},
          {"criterion", NoiseResult::criterion()}};
}

void check_writable(const std::string& path) {
  if (path.empty() || path == "-") return;
  const auto folder = std::filesystem::absolute(path).parent_path();
  const bool there = access(path.c_str(), F_OK) == 0;
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    errno = EISDIR;
  } else if (access(there ? path.c_str() : folder.c_str(), W_OK) == 0) {
    return;
  }
  throw file_failure("write", path);
}

void write_report(const Json& report, const std::string& path, bool compact) {
  const std::string text = report.dump(compact ? -1 : 2) + "\n";
  if (path == "-") {
    fmt::print("{}", text);
    std::fflush(stdout);
    return;
  }
  std::ofstream file(path);
  file << text;
  file.close();
  if (!file) throw file_failure("write", path);
}

}  // namespace virtproxy::bench
