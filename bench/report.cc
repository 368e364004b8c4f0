#include "report.h"

#include <fmt/format.h>

#include <string>

#include "report_parts.h"

namespace virtproxy::bench {
namespace {

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
    add_row(out, "throughput",
            fmt::format("{:.3f} GB/s  ({:.3f} GB: {:.3f} up, {:.3f} down; up counted at the {})",
                        bytes / result.seconds / 1e9, bytes / 1e9,
                        static_cast<double>(result.bytes_up) / 1e9,
                        static_cast<double>(result.bytes_down) / 1e9,
                        result.counted_at_sink ? "sink" : "client"));
  }
  if (plan.stream_count() > 1) {
    add_row(out, "fairness",
            fmt::format("least {}, mean {}, most {} a connection",
                        bytes_text(static_cast<double>(result.least_moved)),
                        bytes_text(result.mean_moved),
                        bytes_text(static_cast<double>(result.most_moved))));
  }
  if (plan.counts_messages()) {
    add_row(out, plan.mode == Mode::kChurn ? "connections" : "messages",
            fmt::format("{:.0f}/s  ({})", static_cast<double>(result.messages) / result.seconds,
                        result.messages));
  }
  if (plan.has_latency()) {
    const Histogram& h = result.latency;
    add_row(out, "latency", percentiles_text(h));
    add_row(out, "",
            plan.rate > 0
                ? fmt::format("from when each was due, {:g}/s; {} due but unsent at the end",
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
    add_row(out, process.name,
            fmt::format("pid {}{}: {:.3f} CPU-s ({:.2f} user, {:.2f} system){}", process.pid,
                        to.processes > 1 ? fmt::format(" and {} more", to.processes - 1) : "",
                        process.cpu(), to.user - from.user, to.system - from.system,
                        costs(process.cpu())));
    add_row(
        out, "",
        fmt::format("switches {} voluntary, {} involuntary; RSS {} ({} before the load), peak {}",
                    to.voluntary > from.voluntary ? to.voluntary - from.voluntary : 0,
                    to.involuntary > from.involuntary ? to.involuntary - from.involuntary : 0,
                    bytes_text(static_cast<double>(to.rss)),
                    bytes_text(static_cast<double>(process.idle.rss)),
                    bytes_text(static_cast<double>(to.peak_rss))));
    if (to.rss > process.idle.rss) growth += to.rss - process.idle.rss;
  }
  if (result.processes.size() > 1) {
    add_row(out, "all of them",
            fmt::format("{:.3f} CPU-s{}", result.processes_cpu(), costs(result.processes_cpu())));
  }
  if (plan.mode == Mode::kIdle) {
    add_row(out, "opened in", fmt::format("{:.2f} s", result.opening_seconds));
    if (!result.processes.empty()) {
      add_row(out, "cost",
              fmt::format("{:.0f} B of RSS a connection, all processes; {:.2f} % CPU while idle",
                          static_cast<double>(growth) / static_cast<double>(plan.connections),
                          result.processes_cpu() / result.seconds * 100));
    }
  }
}

}  // namespace

std::string format_table(const Plan& plan, const RunResult& result) {
  std::string out;
  out += fmt::format("{}: {}{}\n", mode_name(plan.mode), describe_load(plan),
                     plan.verify ? ", verified" : "");
  add_row(
      out, "way",
      fmt::format(
          "{} -> {}",
          plan.connect.front().text +
              (plan.connect.size() > 1 ? fmt::format(" and {} more", plan.connect.size() - 1) : ""),
          plan.listen ? plan.listen->text : "(sink elsewhere)"));
  add_row(out, "measured",
          fmt::format("{:.2f} s after {:g} s of warm-up", result.seconds, plan.warmup));
  add_load(plan, result, out);
  add_processes(plan, result, out);
  add_row(out, "generator",
          fmt::format("{:.3f} CPU-s, switches {} voluntary, {} involuntary", result.own_cpu,
                      result.own_voluntary, result.own_involuntary));
  add_noise(result.noise, out);
  return out;
}

}  // namespace virtproxy::bench
