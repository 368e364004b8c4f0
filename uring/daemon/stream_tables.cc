#include "uring/daemon/stream_tables.h"

#include <array>
#include <chrono>

namespace virtproxy {
namespace {

using ColumnPlace::kJson;
using ColumnUnit::kBytes;
using ColumnUnit::kSeconds;

// In the order of StallReason.
constexpr std::array<std::string_view, kStallReasons> kWaited{
    "waited_connecting",  "waited_memory",  "waited_credit",
    "waited_application", "waited_channel", "waited_descriptors"};

uint64_t milliseconds(Duration duration) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
}

// When something began that has lasted for so long.
std::string time_before(Duration duration) {
  using std::chrono::system_clock;
  return utc_time(system_clock::now() -
                  std::chrono::duration_cast<system_clock::duration>(duration));
}

std::string side_of(StreamRole role) { return role == StreamRole::kOpener ? "client" : "service"; }

ControlCell text_or_nothing(const std::string& text) {
  return text.empty() ? ControlCell() : ControlCell(text);
}

}  // namespace

std::string_view reason_text(StallReason reason) {
  switch (reason) {
    case StallReason::kConnecting:
      return "the service has not accepted the connection yet";
    case StallReason::kMemory:
      return "the channel's memory is in use: see --memory";
    case StallReason::kCredit:
      return "the application at the other end does not read";
    case StallReason::kApplication:
      return "the application at this end does not read";
    case StallReason::kChannel:
      return "the channel takes no bytes: the other end does not read it";
    case StallReason::kDescriptors:
      return "no descriptor is free to accept clients: see LimitNOFILE=";
  }
  return "";
}

ControlTable streams_table(const StreamRows& found) {
  ControlTable table{.columns = {{"stream"},
                                 {"service"},
                                 {"side"},
                                 {"age", kSeconds},
                                 {"sent", kBytes},
                                 {"received", kBytes},
                                 {"waits_for"},
                                 {"waiting", kSeconds},
                                 {"client"},
                                 {"since", ColumnUnit::kNone, kJson},
                                 {"number", ColumnUnit::kNone, kJson}},
                     .rows = {}};
  for (const std::string_view name : kWaited) table.columns.push_back({name, kSeconds, kJson});
  for (const StreamRow& row : found.rows) {
    const bool waits = row.waits_for.has_value();
    auto& cells = table.rows.emplace_back(std::vector<ControlCell>{
        to_string(row.name), row.service, side_of(row.role), milliseconds(row.age), row.bytes.sent,
        row.bytes.received,
        waits ? ControlCell(std::string(stall_name(*row.waits_for))) : ControlCell(),
        waits ? ControlCell(milliseconds(row.waits)) : ControlCell(), text_or_nothing(row.client),
        waits ? ControlCell(time_before(row.waits)) : ControlCell(),
        row.number ? ControlCell(uint64_t{*row.number}) : ControlCell()});
    for (const Duration waited : row.waited) cells.emplace_back(milliseconds(waited));
  }
  return table;
}

ControlTable why_table(const StreamRows& found) {
  ControlTable table{.columns = {{"stream"},
                                 {"service"},
                                 {"waiting", kSeconds},
                                 {"in_all", kSeconds},
                                 {"reason", ColumnUnit::kNone, ColumnPlace::kText},
                                 {"reason", ColumnUnit::kNone, kJson},
                                 {"waits_for", ColumnUnit::kNone, kJson},
                                 {"since", ColumnUnit::kNone, kJson},
                                 {"channel", ColumnUnit::kNone, kJson},
                                 {"side", ColumnUnit::kNone, kJson},
                                 {"client", ColumnUnit::kNone, kJson}},
                     .rows = {}};
  // `who` does not read, where it is known.
  const auto add = [&](ControlCell stream, const std::string& service, StallReason reason,
                       const std::string& who, Duration waits,
                       Duration waited) -> std::vector<ControlCell>& {
    const std::string text(reason_text(reason));
    const bool named = reason == StallReason::kApplication && !who.empty();
    return table.rows.emplace_back(
        std::vector<ControlCell>{std::move(stream), service, milliseconds(waits),
                                 milliseconds(waited), named ? text + ": " + who : text, text,
                                 std::string(stall_name(reason)), time_before(waits)});
  };
  for (const ListenerRow& row : found.listeners) {
    auto& cells = add({}, row.service, row.reason, {}, row.waits, row.waited);
    cells.insert(cells.end(), {row.channel, std::string("client"), ControlCell()});
  }
  for (const StreamRow& row : found.rows) {
    auto& cells = add(to_string(row.name), row.service, *row.waits_for, row.application, row.waits,
                      row.waited[static_cast<size_t>(*row.waits_for)]);
    cells.insert(cells.end(), {row.name.channel, side_of(row.role), text_or_nothing(row.client)});
  }
  return table;
}

}  // namespace virtproxy
