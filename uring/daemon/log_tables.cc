#include "uring/daemon/log_tables.h"

#include <algorithm>
#include <chrono>

namespace virtproxy {
namespace {

using ColumnPlace::kJson;
using ColumnUnit::kBytes;
using ColumnUnit::kSeconds;

constexpr std::string_view kSource = "source";
constexpr std::string_view kShipping = "shipping";
constexpr std::string_view kShippingSpool = "shipping spool";
constexpr std::string_view kCollecting = "collecting";
constexpr std::string_view kFromGuest = "guest's source";
constexpr std::string_view kSink = "sink";
constexpr std::string_view kSpool = "collecting spool";

// Lines that were not acknowledged for longer wait for something, in nanoseconds.
constexpr uint64_t kHeldLong = 1'000'000'000;

using Field = std::optional<uint64_t> LogRow::*;

// Families of the statistics, and where their values stand. The name of a row is that of the source
// or sink in the labels.
struct Family {
  std::string_view name;
  std::string_view what;
  Field field;
};
constexpr Family kFamilies[] = {
    {"ship_lines_received", kSource, &LogRow::received},
    {"ship_received", kSource, &LogRow::bytes},
    {"ship_lines_acknowledged", kSource, &LogRow::acknowledged},
    {"ship_lines_dropped", kSource, &LogRow::dropped},
    {"ship_lines_rate", kSource, &LogRow::rate},
    {"ship_source_up", kSource, &LogRow::up},
    {"ship_source_held", kSource, &LogRow::held},
    {"ship_source_oldest_unacknowledged", kSource, &LogRow::oldest},
    {"ship_source_blocked_now", kSource, &LogRow::blocked_now},
    {"ship_source_blocked_time", kSource, &LogRow::blocked_time},
    {"ship_connected", kShipping, &LogRow::up},
    {"ship_unacknowledged", kShipping, &LogRow::held},
    {"ship_oldest_unacknowledged", kShipping, &LogRow::oldest},
    {"ship_lines_explained", kShipping, &LogRow::dropped},
    {"ship_spool_used", kShippingSpool, &LogRow::held},
    {"ship_spool_size", kShippingSpool, &LogRow::size},
    {"log_lines", kCollecting, &LogRow::received},
    {"log_lines_size", kCollecting, &LogRow::bytes},
    {"log_delivered", kCollecting, &LogRow::delivered},
    {"log_dropped", kCollecting, &LogRow::dropped},
    {"log_unaccounted", kCollecting, &LogRow::unaccounted},
    {"log_held", kCollecting, &LogRow::held},
    {"log_lines_rate", kCollecting, &LogRow::rate},
    {"log_sink_records", kSink, &LogRow::delivered},
    {"log_sink_text", kSink, &LogRow::bytes},
    {"log_sink_rejected", kSink, &LogRow::dropped},
    {"log_sink_rate", kSink, &LogRow::rate},
    {"log_sink_up", kSink, &LogRow::up},
    {"log_sink_oldest_unacknowledged", kSink, &LogRow::oldest},
    {"log_spool_used", kSpool, &LogRow::held},
    {"log_spool_size", kSpool, &LogRow::size},
    {"log_spool_lost_lines", kSpool, &LogRow::dropped},
};

std::string_view label_of(const StatSample& sample, std::string_view name) {
  for (const StatLabel& label : sample.labels) {
    if (label.name == name) return label.value;
  }
  return {};
}

void add_to(std::optional<uint64_t>& field, uint64_t value) { field = field.value_or(0) + value; }

ControlCell milliseconds_of(const std::optional<uint64_t>& value) {
  return value ? ControlCell(*value / 1'000'000) : ControlCell();
}

// With its number where the guest gave one name to several sources.
std::string shown_name(const LogRows& logs, const LogRow& row) {
  const auto same = [&](const LogRow& each) {
    return each.channel == row.channel && each.what == row.what && each.name == row.name;
  };
  const bool alone = std::count_if(logs.rows().begin(), logs.rows().end(), same) == 1;
  return alone ? row.name : row.name + " (number " + row.number + ")";
}

std::string state_of(const LogRow& row) {
  if (row.blocked_now.value_or(0) > 0) return "blocked";
  if (row.what == kShipping) return row.up.value_or(0) > 0 ? "up" : "waits";
  if (row.what == kSource) return row.up.value_or(1) > 0 ? "" : "down";
  if (row.what == kSink) return row.up.value_or(0) > 0 ? "up" : "down";
  return {};
}

}  // namespace

LogRow& LogRows::row(std::string_view what, std::string name, std::string number) {
  const auto found = std::find_if(rows_.begin(), rows_.end(), [&](const LogRow& row) {
    return row.channel == channel_ && row.what == what && row.name == name && row.number == number;
  });
  if (found != rows_.end()) return *found;
  LogRow& row = rows_.emplace_back();
  row.channel = channel_;
  row.what = what;
  row.name = std::move(name);
  row.number = std::move(number);
  return row;
}

void LogRows::visit(const StatInfo& info, const StatSample& sample) {
  if (info.name == "log_source_lines") {
    LogRow& of = row(kFromGuest, std::string(label_of(sample, "source")),
                     std::string(label_of(sample, "number")));
    const std::string_view state = label_of(sample, "state");
    add_to(of.received, sample.value);
    add_to(state == "delivered" ? of.delivered
           : state == "dropped" ? of.dropped
                                : of.unaccounted,
           sample.value);
    return;
  }
  const auto* const family =
      std::find_if(std::begin(kFamilies), std::end(kFamilies),
                   [&](const Family& each) { return each.name == info.name; });
  if (family == std::end(kFamilies)) return;
  const std::string_view name = label_of(sample, family->what == kSink ? "sink" : "source");
  LogRow& of = row(family->what, std::string(name));
  add_to(of.*family->field, sample.value);
  if (info.name == "log_sink_rejected") {
    of.by_reason[static_cast<size_t>(logs::DropReason::kRejected)] += sample.value;
  }
  if (info.name == "log_spool_lost_lines") {
    of.by_reason[static_cast<size_t>(logs::DropReason::kCorrupt)] += sample.value;
  }
  const std::string_view reason = label_of(sample, "reason");
  for (size_t i = 0; i < logs::kDropReasons; ++i) {
    if (logs::name_of(static_cast<logs::DropReason>(i)) == reason) of.by_reason[i] += sample.value;
  }
}

void LogRows::add(const LogRows& other) {
  rows_.insert(rows_.end(), other.rows_.begin(), other.rows_.end());
}

ControlTable logs_table(const LogRows& logs, std::string_view channel) {
  ControlTable table{.columns = {{"channel"},
                                 {"what"},
                                 {"name"},
                                 {"state"},
                                 {"received"},
                                 {"acknowledged"},
                                 {"delivered"},
                                 {"dropped"},
                                 {"unaccounted"},
                                 {"bytes", kBytes},
                                 {"rate"},
                                 {"held", kBytes},
                                 {"size", kBytes},
                                 {"oldest", kSeconds},
                                 {"blocked", kSeconds, kJson}},
                     .rows = {}};
  // They live as long as the process.
  static const std::vector<std::string> kReasons = [] {
    std::vector<std::string> names;
    for (size_t i = 0; i < logs::kDropReasons; ++i) {
      names.push_back("dropped_" + std::string(logs::name_of(static_cast<logs::DropReason>(i))));
      std::replace(names.back().begin(), names.back().end(), '-', '_');
    }
    return names;
  }();
  for (const std::string& name : kReasons) {
    table.columns.push_back({name, ColumnUnit::kNone, kJson});
  }
  for (const LogRow& row : logs.rows()) {
    if (!channel.empty() && row.channel != channel) continue;
    auto& cells = table.rows.emplace_back(std::vector<ControlCell>{
        row.channel, std::string(row.what), shown_name(logs, row), state_of(row),
        cell_of(row.received), cell_of(row.acknowledged), cell_of(row.delivered),
        cell_of(row.dropped), cell_of(row.unaccounted), cell_of(row.bytes), cell_of(row.rate),
        cell_of(row.held), cell_of(row.size), milliseconds_of(row.oldest),
        milliseconds_of(row.blocked_time)});
    // The account of a guest's source has only their sum.
    const bool has_reasons = row.dropped && row.what != kFromGuest;
    for (const uint64_t lines : row.by_reason) {
      cells.push_back(has_reasons ? ControlCell(lines) : ControlCell());
    }
  }
  return table;
}

void add_waiting_logs(const LogRows& logs, std::string_view channel, ControlTable& table) {
  using std::chrono::system_clock;
  const auto add = [&](const LogRow& row, std::string what, const std::optional<uint64_t>& waiting,
                       const std::optional<uint64_t>& in_all, const std::string& reason,
                       std::string_view waits_for, std::string_view side) {
    const auto since = system_clock::now() - std::chrono::duration_cast<system_clock::duration>(
                                                 std::chrono::nanoseconds(waiting.value_or(0)));
    table.rows.push_back({ControlCell(), std::move(what), milliseconds_of(waiting),
                          milliseconds_of(in_all), reason, reason, std::string(waits_for),
                          waiting ? ControlCell(utc_time(since)) : ControlCell(), row.channel,
                          std::string(side), ControlCell()});
  };
  const auto figure = [&](const LogRow& of, std::string_view what, Field field) {
    const auto found = std::find_if(logs.rows().begin(), logs.rows().end(), [&](const LogRow& row) {
      return row.channel == of.channel && row.what == what;
    });
    return found == logs.rows().end() ? 0 : ((*found).*field).value_or(0);
  };
  for (const LogRow& row : logs.rows()) {
    if (!channel.empty() && row.channel != channel) continue;
    if (row.what == kSource && row.blocked_now.value_or(0) > 0) {
      const bool connected = figure(row, kShipping, &LogRow::up) > 0;
      add(row, "source " + row.name, row.blocked_now, row.blocked_time,
          connected ? "no room for lines: the other end acknowledges them too slowly"
                    : "no room for lines: the other end does not take any",
          connected ? "acknowledgement" : "session", "source");
    }
    if (row.what == kSink && row.oldest.value_or(0) > (row.up.value_or(0) > 0 ? kHeldLong : 0)) {
      add(row, "sink " + row.name, row.oldest, std::nullopt,
          row.up.value_or(0) > 0 ? "lines are held: the sink acknowledges them too slowly"
                                 : "lines are held: the sink takes none, see the log",
          "sink", "collecting");
    }
    if (row.what == kShipping && row.up.value_or(0) > 0 && row.oldest.value_or(0) > kHeldLong) {
      add(row, "log shipping", row.oldest, std::nullopt,
          "lines are held: the other end acknowledges them too slowly, ask logs there",
          "acknowledgement", "shipping");
    }
    if (row.what == kShipping && row.up.value_or(0) == 0) {
      const bool old = row.oldest.value_or(0) > 0;
      if (!old && figure(row, kShippingSpool, &LogRow::held) == 0) continue;
      // How long lines of an earlier run have been in the spool is not known.
      const std::optional<uint64_t> waiting = old ? row.oldest : std::nullopt;
      add(row, "log shipping", waiting, std::nullopt,
          "lines are held: the channel is down, or the other end collects none", "session",
          "shipping");
    }
  }
}

}  // namespace virtproxy
