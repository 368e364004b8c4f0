#include <nlohmann/json.hpp>

#include "report.h"
#include "report_parts.h"

namespace virtproxy::bench {
namespace {

using Json = nlohmann::ordered_json;

Json plan_json(const Plan& plan) {
  Json json = {
      {"connect", plan.connect.front().text},
      {"connect_addresses", plan.connect.size()},
      {"listen", plan.listen ? Json(plan.listen->text) : Json(nullptr)},
      {"connections", plan.connections},
      {"size", plan.size},
      {"chunk", plan.chunk},
      {"direction", direction_name(plan.direction)},
      {"bytes", plan.bytes},
      {"duration", plan.duration},
      {"warmup", plan.warmup},
      {"rate", plan.rate},
      {"verify", plan.verify},
      {"half_close", plan.half_close},
      {"http_connect", plan.http_connect},
      {"pin", plan.cpus},
      {"process_trees", plan.process_trees},
  };
  if (plan.mode == Mode::kMixed) json["ping_connections"] = plan.ping_connections;
  return json;
}

void add_window(const Plan& plan, const RunResult& result, Json& json) {
  const double bytes = static_cast<double>(result.stream_bytes());
  const double messages = static_cast<double>(result.messages);
  json["seconds"] = result.seconds;
  json["bytes"] = {{"total", result.stream_bytes()},
                   {"up", result.bytes_up},
                   {"down", result.bytes_down},
                   {"up_counted_at", result.counted_at_sink ? "sink" : "client"}};
  json["bytes_per_second"] = bytes / result.seconds;
  json["messages"] = result.messages;
  json["messages_per_second"] = messages / result.seconds;
  if (plan.has_latency()) {
    Json& latency = json["latency_ns"] = histogram_json(result.latency);
    latency["open_loop"] = plan.rate > 0;
    latency["backlog_at_end"] = result.backlog;
  }
  if (plan.stream_count() > 0) {
    json["fairness"] = {{"least_bytes", result.least_moved},
                        {"mean_bytes", result.mean_moved},
                        {"most_bytes", result.most_moved}};
  }
  Json processes = Json::array();
  uint64_t rss_growth = 0;
  for (const ProcessResult& process : result.processes) {
    processes.push_back(process_json(process));
    if (process.after.rss > process.idle.rss) rss_growth += process.after.rss - process.idle.rss;
  }
  json["processes"] = std::move(processes);
  if (!result.processes.empty()) {
    const double cpu = result.processes_cpu();
    Json total = {{"cpu_seconds", cpu}};
    if (bytes > 0) total["cpu_seconds_per_gb"] = cpu / (bytes / 1e9);
    if (messages > 0 && plan.mode != Mode::kMixed)
      total["cpu_us_per_message"] = cpu * 1e6 / messages;
    if (plan.mode == Mode::kIdle) {
      total["rss_per_connection"] =
          static_cast<double>(rss_growth) / static_cast<double>(plan.connections);
    }
    json["processes_total"] = std::move(total);
  }
  json["generator"] = {{"cpu_seconds", result.own_cpu},
                       {"voluntary_switches", result.own_voluntary},
                       {"involuntary_switches", result.own_involuntary}};
  json["noise"] = noise_json(result.noise);
}

}  // namespace

Json make_json(const Plan& plan, const RunResult& result) {
  Json json = report_head(mode_name(plan.mode));
  json["options"] = plan_json(plan);
  json["exit_code"] = static_cast<int>(result.outcome);
  json["failure"] = result.failure.empty() ? Json(nullptr) : Json(result.failure);
  json["opening_seconds"] = result.opening_seconds;
  json["measured"] = result.measured;
  if (result.measured) add_window(plan, result, json);
  return json;
}

}  // namespace virtproxy::bench
