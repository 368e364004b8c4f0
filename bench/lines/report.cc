#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "lines/run_lines.h"
#include "report_parts.h"

namespace virtproxy::bench::lines {
namespace {

using Json = nlohmann::ordered_json;

// Writers that are reported each for itself.
constexpr size_t kMostWriters = 64;

// A second; zero where no time has passed.
double rate_of(double amount, double seconds) { return seconds > 0 ? amount / seconds : 0; }

const char* header_name(Header header) {
  switch (header) {
    case Header::kNone:
      return "none";
    case Header::kRfc3164:
      return "3164";
    case Header::kRfc5424:
      return "5424";
  }
  return "";
}

const char* content_name(Content content) {
  switch (content) {
    case Content::kText:
      return "text";
    case Content::kBytes:
      return "bytes";
    case Content::kAll:
      return "all";
  }
  return "";
}

const char* framing_name(Framing framing) {
  switch (framing) {
    case Framing::kAuto:
      return "auto";
    case Framing::kLf:
      return "lf";
    case Framing::kOctet:
      return "octet";
  }
  return "";
}

double lines_of(const LinesPlan& plan, const LinesResult& result) {
  return static_cast<double>(plan.sink ? result.count.delivered : result.sent);
}

}  // namespace

std::string format_lines_table(const LinesPlan& plan, const LinesResult& result) {
  const double lines = lines_of(plan, result);
  std::string out =
      fmt::format("lines: {} writer(s), lines of {} B{}\n", plan.shape.writers, plan.shape.size,
                  plan.rate > 0 ? fmt::format(", {:g}/s", plan.rate) : "");
  add_row(out, "way",
          fmt::format("{} -> {}", plan.source ? plan.source->text : "(writers elsewhere)",
                      plan.sink ? plan.sink->text : "(sink elsewhere)"));
  add_row(
      out, "written",
      fmt::format("{} in {:.2f} s, {:.0f}/s; longest write {}", result.sent, result.write_seconds,
                  rate_of(static_cast<double>(result.sent), result.write_seconds),
                  time_text(static_cast<uint64_t>(result.longest_write_ns))));
  if (result.reconnects > 0) add_row(out, "", fmt::format("{} reconnections", result.reconnects));
  if (plan.sink) {
    add_row(out, "delivered",
            fmt::format("{} in {:.2f} s, {:.0f}/s", result.count.delivered, result.seconds,
                        rate_of(lines, result.seconds)));
    std::string told = fmt::format("{} in {} records", result.told.lines, result.told.records);
    for (const auto& [reason, count] : result.told.reasons)
      told += fmt::format(", {} {}", reason, count);
    add_row(out, "told dropped", told);
    add_row(
        out, "lost",
        fmt::format(
            "{}{}", result.unaccounted(),
            result.missing.empty() ? "" : fmt::format("; missing of writer {}", result.missing)));
    add_row(
        out, "wrong",
        fmt::format(
            "{} doubled, {} reordered, {} corrupted; {} messages that are no lines{}",
            result.count.doubled, result.count.reordered, result.count.corrupted, result.foreign,
            result.unfinished > 0 ? fmt::format(", {} unfinished", result.unfinished) : ""));
    if (result.has_ages) add_row(out, "age", percentiles_text(result.ages));
  }
  for (const ProcessResult& process : result.processes) {
    add_row(out, process.name,
            fmt::format("pid {}: {:.3f} CPU-s, {:.2f} µs a line; RSS {}, peak {}", process.pid,
                        process.cpu(), process.cpu() * 1e6 / lines,
                        bytes_text(static_cast<double>(process.after.rss)),
                        bytes_text(static_cast<double>(process.after.peak_rss))));
  }
  if (result.processes.size() > 1) {
    add_row(out, "all of them",
            fmt::format("{:.3f} CPU-s, {:.2f} µs a line", result.processes_cpu(),
                        result.processes_cpu() * 1e6 / lines));
  }
  add_row(out, "generator", fmt::format("{:.3f} CPU-s", result.own_cpu));
  add_noise(result.noise, out);
  return out;
}

Json make_lines_json(const LinesPlan& plan, const LinesResult& result) {
  Json json = report_head("lines");
  json["options"] = {{"connect", plan.source ? Json(plan.source->text) : Json(nullptr)},
                     {"sink", plan.sink ? Json(plan.sink->text) : Json(nullptr)},
                     {"writers", plan.shape.writers},
                     {"size", plan.shape.size},
                     {"content", content_name(plan.shape.content)},
                     {"header", header_name(plan.header)},
                     {"framing", framing_name(plan.write_framing)},
                     {"batch", plan.batch},
                     {"rate", plan.rate},
                     {"duration", plan.count > 0 ? Json(nullptr) : Json(plan.duration)},
                     {"count", plan.count},
                     {"reconnect", plan.reconnect},
                     {"pin", plan.cpus},
                     {"process_trees", plan.process_trees}};
  json["run"] = plan.shape.run;
  json["exit_code"] = static_cast<int>(result.outcome);
  json["failure"] = result.failure.empty() ? Json(nullptr) : Json(result.failure);
  json["measured"] = result.measured;
  json["seconds"] = result.seconds;
  json["write_seconds"] = result.write_seconds;
  Json reasons = Json::object();
  for (const auto& [reason, count] : result.told.reasons) reasons[reason] = count;
  json["lines"] = {{"sent", result.sent},
                   {"delivered", result.count.delivered},
                   {"told_dropped", result.told.lines},
                   {"drop_records", result.told.records},
                   {"dropped_by_reason", reasons},
                   {"dropped_at_most", result.told.at_most},
                   {"lost", result.unaccounted()},
                   {"doubled", result.count.doubled},
                   {"reordered", result.count.reordered},
                   {"corrupted", result.count.corrupted},
                   {"foreign", result.foreign},
                   {"unfinished", result.unfinished},
                   {"missing", result.missing},
                   {"read_again", result.read_again}};
  const double lines = lines_of(plan, result);
  json["lines_per_second"] = rate_of(lines, result.seconds);
  json["sent_per_second"] = rate_of(static_cast<double>(result.sent), result.write_seconds);
  json["bytes_per_second"] = rate_of(lines * static_cast<double>(plan.shape.size), result.seconds);
  json["longest_write_ns"] = result.longest_write_ns;
  json["reconnects"] = result.reconnects;
  if (result.has_ages) json["age_ns"] = histogram_json(result.ages);
  Json writers = Json::array();
  for (size_t i = 0; i < std::min(result.writers.size(), kMostWriters); ++i) {
    const WriterCount& count = result.writers[i];
    writers.push_back({{"sent", result.sent_by_writer[i]},
                       {"delivered", count.delivered},
                       {"doubled", count.doubled},
                       {"reordered", count.reordered},
                       {"corrupted", count.corrupted}});
  }
  json["writers"] = std::move(writers);
  Json processes = Json::array();
  for (const ProcessResult& process : result.processes) processes.push_back(process_json(process));
  json["processes"] = std::move(processes);
  if (!result.processes.empty()) {
    json["processes_total"] = {{"cpu_seconds", result.processes_cpu()}};
    if (lines > 0)
      json["processes_total"]["cpu_us_per_line"] = result.processes_cpu() * 1e6 / lines;
  }
  json["generator"] = {{"cpu_seconds", result.own_cpu}};
  json["noise"] = noise_json(result.noise);
  return json;
}

}  // namespace virtproxy::bench::lines
