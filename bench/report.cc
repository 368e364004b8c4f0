#include "report.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

namespace virtproxy::bench {
namespace {

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

void line(std::string& out, std::string_view label, std::string_view text) {
  out += fmt::format("  {:<13} {}\n", label, text);
}

std::string describe_load(const Plan& plan) {
  switch (plan.mode) {
    case Mode::kBulk:
      return fmt::format("{}, {} connection(s), writes of {}", direction_name(plan.direction),
                         plan.connections, bytes_text(static_cast<double>(plan.chunk)));
    case Mode::kMixed:
      return fmt::format("{} bulk connections {} (writes of {}), {} ping-pong connections of {} B",
                         plan.connections, direction_name(plan.direction),
                         bytes_text(static_cast<double>(plan.chunk)), plan.ping_connections,
                         plan.size);
    case Mode::kChurn:
      return fmt::format("{} connections at a time, {} B each way", plan.connections, plan.size);
    case Mode::kIdle:
      return fmt::format("{} connections", plan.connections);
    case Mode::kPingPong:
    case Mode::kOneWay:
      return fmt::format("{} connections, messages of {} B", plan.connections, plan.size);
  }
  return {};
}

void add_load(const Plan& plan, const RunResult& result, std::string& out) {
  const double bytes = static_cast<double>(result.stream_bytes());
  if (plan.stream_count() > 0) {
    line(out, "throughput",
         fmt::format("{:.3f} GB/s  ({:.3f} GB: {:.3f} up, {:.3f} down; up counted at the {})",
                     bytes / result.seconds / 1e9, bytes / 1e9,
                     static_cast<double>(result.bytes_up) / 1e9,
                     static_cast<double>(result.bytes_down) / 1e9,
                     result.counted_at_sink ? "sink" : "client"));
  }
  if (plan.stream_count() > 1) {
    line(out, "fairness",
         fmt::format("least {}, mean {}, most {} a connection",
                     bytes_text(static_cast<double>(result.least_moved)),
                     bytes_text(result.mean_moved),
                     bytes_text(static_cast<double>(result.most_moved))));
  }
  if (plan.counts_messages()) {
    line(out, plan.mode == Mode::kChurn ? "connections" : "messages",
         fmt::format("{:.0f}/s  ({})", static_cast<double>(result.messages) / result.seconds,
                     result.messages));
  }
  if (plan.has_latency()) {
    const Histogram& h = result.latency;
    line(out, "latency",
         fmt::format("p50 {}  p90 {}  p99 {}  p99.9 {}  p99.99 {}  max {}",
                     time_text(h.percentile(50)), time_text(h.percentile(90)),
                     time_text(h.percentile(99)), time_text(h.percentile(99.9)),
                     time_text(h.percentile(99.99)), time_text(h.max())));
    line(out, "",
         plan.rate > 0 ? fmt::format("from when each was due, {:g}/s; {} due but unsent at the end",
                                     plan.rate, result.backlog)
                       : std::string("closed loop: a stall delays the messages behind it unseen"));
  }
}

void add_processes(const Plan& plan, const RunResult& result, std::string& out) {
  const auto gb = static_cast<double>(result.stream_bytes()) / 1e9;
  const auto messages = static_cast<double>(result.messages);
  const auto costs = [&](double cpu) {
    std::string text;
    if (gb > 0 && plan.mode != Mode::kOneWay) text += fmt::format("  {:.3f} CPU-s/GB", cpu / gb);
    if (messages > 0 && plan.mode != Mode::kMixed)
      text += fmt::format("  {:.2f} µs CPU/message", cpu * 1e6 / messages);
    return text;
  };
  uint64_t growth = 0;
  for (const ProcessResult& process : result.processes) {
    const ProcessSample& from = process.before;
    const ProcessSample& to = process.after;
    line(out, process.name,
         fmt::format("pid {}{}: {:.3f} CPU-s ({:.2f} user, {:.2f} system){}", process.pid,
                     to.processes > 1 ? fmt::format(" and {} more", to.processes - 1) : "",
                     process.cpu(), to.user - from.user, to.system - from.system,
                     costs(process.cpu())));
    line(out, "",
         fmt::format("switches {} voluntary, {} involuntary; RSS {} ({} before the load), peak {}",
                     to.voluntary > from.voluntary ? to.voluntary - from.voluntary : 0,
                     to.involuntary > from.involuntary ? to.involuntary - from.involuntary : 0,
                     bytes_text(static_cast<double>(to.rss)),
                     bytes_text(static_cast<double>(process.idle.rss)),
                     bytes_text(static_cast<double>(to.peak_rss))));
    if (to.rss > process.idle.rss) growth += to.rss - process.idle.rss;
  }
  if (result.processes.size() > 1) {
    line(out, "all of them",
         fmt::format("{:.3f} CPU-s{}", result.processes_cpu(), costs(result.processes_cpu())));
  }
  if (plan.mode == Mode::kIdle) {
    line(out, "opened in", fmt::format("{:.2f} s", result.opening_seconds));
    if (!result.processes.empty()) {
      line(out, "cost",
           fmt::format("{:.0f} B of RSS a connection, all processes; {:.2f} % CPU while idle",
                       static_cast<double>(growth) / static_cast<double>(plan.connections),
                       result.processes_cpu() / result.seconds * 100));
    }
  }
}

void add_noise(const NoiseResult& noise, std::string& out) {
  std::string text;
  for (const std::string& reason : noise.reasons) {
    text += (text.empty() ? "NOISY, do not believe these figures: " : "; ") + reason;
  }
  if (text.empty()) text = noise.judged() ? "quiet" : "quiet, but too short to judge the spread";
  line(out, "machine", text);
  line(out, "",
       fmt::format("steal {:.1f} %, iowait {:.1f} %, others {}, spread {}", noise.steal * 100,
                   noise.iowait * 100,
                   noise.foreign_known ? fmt::format("{:.1f} %", noise.foreign * 100) : "unknown",
                   noise.judged() ? fmt::format("{:.0f} %", noise.spread * 100) : "unknown"));
  line(out, "", fmt::format("({})", NoiseResult::criterion()));
}

}  // namespace

std::string format_table(const Plan& plan, const RunResult& result) {
  std::string out;
  out += fmt::format("{}: {}{}\n", mode_name(plan.mode), describe_load(plan),
                     plan.verify ? ", verified" : "");
  line(
      out, "way",
      fmt::format(
          "{} -> {}",
          plan.connect.front().text +
              (plan.connect.size() > 1 ? fmt::format(" and {} more", plan.connect.size() - 1) : ""),
          plan.listen ? plan.listen->text : "(sink elsewhere)"));
  line(out, "measured",
       fmt::format("{:.2f} s after {:g} s of warm-up", result.seconds, plan.warmup));
  add_load(plan, result, out);
  add_processes(plan, result, out);
  line(out, "generator",
       fmt::format("{:.3f} CPU-s, switches {} voluntary, {} involuntary", result.own_cpu,
                   result.own_voluntary, result.own_involuntary));
  add_noise(result.noise, out);
  return out;
}

}  // namespace virtproxy::bench
