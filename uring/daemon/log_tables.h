// The tables of log shipping and collecting, made of the same statistics as the metrics.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/logs/account.h"
#include "uring/daemon/control_table.h"
#include "uring/mux/stats.h"

namespace virtproxy {

// A source, a VM whose lines are collected, a source of such a VM, a sink, or a spool.
struct LogRow {
  std::string channel;  // empty: of all
  std::string_view what;
  std::string name;
  std::string number;  // of a guest's source, in its log: names need not differ
  // Those of the figures that there are.
  std::optional<uint64_t> received;
  std::optional<uint64_t> acknowledged;  // by the other end, as delivered or as dropped
  std::optional<uint64_t> delivered;
  std::optional<uint64_t> dropped;
  std::optional<uint64_t> unaccounted;
  std::optional<uint64_t> bytes;
  std::optional<uint64_t> rate;          // lines a second
  std::optional<uint64_t> held;          // bytes, in memory or in a spool
  std::optional<uint64_t> size;          // bytes of the spool
  std::optional<uint64_t> oldest;        // nanoseconds
  std::optional<uint64_t> up;            // of a sink, or of the stream that lines are shipped over
  std::optional<uint64_t> blocked_now;   // nanoseconds
  std::optional<uint64_t> blocked_time;  // nanoseconds
  std::array<uint64_t, logs::kDropReasons> by_reason{};
};

class LogRows final : public StatVisitor {
 public:
  // What follows is of this channel.
  void begin(std::string_view channel) { channel_ = channel; }
  void visit(const StatInfo& info, const StatSample& sample) override;
  void add(const LogRows& other);
  // Those of a channel stand together, sinks and their spool come last.
  const std::vector<LogRow>& rows() const { return rows_; }

 private:
  LogRow& row(std::string_view what, std::string name, std::string number = {});

  std::string channel_;
  std::vector<LogRow> rows_;
};

// With a channel, its rows alone.
ControlTable logs_table(const LogRows& logs, std::string_view channel);
// Adds to the table of what waits: sources that are not read for want of room, and shipping that
// holds lines which the other end does not take.
void add_waiting_logs(const LogRows& logs, std::string_view channel, ControlTable& table);

}  // namespace virtproxy
