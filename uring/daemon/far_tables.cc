#include "uring/daemon/far_tables.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "uring/daemon/stream_tables.h"
#include "uring/mux/service_registry.h"

namespace virtproxy {
namespace {

using ColumnUnit::kBytes;
using ColumnUnit::kSeconds;
constexpr ColumnUnit kNone = ColumnUnit::kNone;
using ColumnPlace::kJson;

constexpr std::string_view kClient = "client";
constexpr std::string_view kServer = "service";

uint64_t milliseconds(Duration duration) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(duration).count());
}

std::string_view side_of(StreamRole role) {
  return role == StreamRole::kOpener ? kClient : kServer;
}

// What names a stream at both ends: its number, and whether its client is here.
using SharedName = std::pair<uint64_t, bool>;

// A stream as either end knows it, or both.
struct Pair {
  const StreamRow* here = nullptr;
  std::optional<size_t> there;  // row of the table
};

// Those of this end first, in their order. The streams that ask are left out.
std::vector<Pair> pairs_of(const StreamRows& here, const FarTable& there) {
  std::map<SharedName, size_t> known;
  for (size_t row = 0; row < there.rows(); ++row) {
    const auto number = there.number(row, "number");
    if (!number || there.text(row, "service") == std::string(kFarService)) continue;
    known.emplace(SharedName(*number, there.text(row, "side") == std::string(kServer)), row);
  }
  std::vector<Pair> pairs;
  for (const StreamRow& row : here.rows) {
    if (row.service == kFarService) continue;
    Pair& pair = pairs.emplace_back(Pair{&row, std::nullopt});
    if (!row.number) continue;
    const auto found = known.find({*row.number, row.role == StreamRole::kOpener});
    if (found == known.end()) continue;
    pair.there = found->second;
    known.erase(found);
  }
  for (const auto& [name, row] : known) pairs.push_back({nullptr, row});
  return pairs;
}

struct Wait {
  ControlCell stream;
  std::string_view end;
  ControlCell service;
  uint64_t waiting;
  ControlCell reason;
  ControlCell waits_for;
  ControlCell there;
};

// The reason as this end sees it.
ControlCell reason_there(const std::optional<std::string>& name) {
  if (!name) return {};
  constexpr std::pair<StallReason, std::string_view> kReasons[] = {
      {StallReason::kConnecting, "its service has not accepted the connection yet"},
      {StallReason::kMemory, "the memory of its channel is in use: see --memory there"},
      {StallReason::kCredit, "the application at this end does not read"},
      {StallReason::kApplication, "the application at the other end does not read"},
      {StallReason::kChannel, "its channel takes no bytes: this end does not read it"},
      {StallReason::kDescriptors, "no descriptor is free there: see LimitNOFILE= there"},
  };
  for (const auto& [reason, text] : kReasons) {
    if (stall_name(reason) == *name) return std::string(text);
  }
  return *name;
}

}  // namespace

ControlTable streams_for_far(const StreamRows& found) {
  ControlTable table{.columns = {{"stream"},
                                 {"number"},
                                 {"side"},
                                 {"service"},
                                 {"age"},
                                 {"sent"},
                                 {"received"},
                                 {"waits_for"},
                                 {"waiting"}},
                     .rows = {}};
  for (const ListenerRow& row : found.listeners) {
    table.rows.push_back({ControlCell(), ControlCell(), std::string(kClient), row.service,
                          ControlCell(), ControlCell(), ControlCell(),
                          std::string(stall_name(row.reason)), milliseconds(row.waits)});
  }
  for (const StreamRow& row : found.rows) {
    const bool waits = row.waits_for.has_value();
    table.rows.push_back(
        {to_string(row.name), cell_of(row.number), std::string(side_of(row.role)), row.service,
         milliseconds(row.age), row.bytes.sent, row.bytes.received,
         waits ? ControlCell(std::string(stall_name(*row.waits_for))) : ControlCell(),
         waits ? ControlCell(milliseconds(row.waits)) : ControlCell()});
  }
  return table;
}

ControlTable far_streams_table(const StreamRows& here, const FarTable& there) {
  ControlTable table{.columns = {{"stream"},
                                 {"service"},
                                 {"sent", kBytes},
                                 {"arrived", kBytes},
                                 {"sent_there", kBytes},
                                 {"received", kBytes},
                                 {"waits_for"},
                                 {"waits_there"},
                                 {"waiting", kSeconds, kJson},
                                 {"waiting_there", kSeconds, kJson},
                                 {"side", kNone, kJson},
                                 {"number", kNone, kJson},
                                 {"stream_there", kNone, kJson},
                                 {"age", kSeconds, kJson},
                                 {"age_there", kSeconds, kJson}},
                     .rows = {}};
  for (const Pair& pair : pairs_of(here, there)) {
    const StreamRow* const row = pair.here;
    const auto number = [&](std::string_view name) {
      return pair.there ? cell_of(there.number(*pair.there, name)) : ControlCell();
    };
    const auto text = [&](std::string_view name) {
      return pair.there ? cell_of(there.text(*pair.there, name)) : ControlCell();
    };
    const auto own = [&](auto cell) {
      return row != nullptr ? ControlCell(cell(*row)) : ControlCell();
    };
    const bool waits = row != nullptr && row->waits_for;
    const bool client = row != nullptr ? row->role == StreamRole::kOpener
                                       : text("side") == ControlCell(std::string(kServer));
    table.rows.push_back(
        {own([](const StreamRow& each) { return to_string(each.name); }),
         row != nullptr ? ControlCell(row->service) : text("service"),
         own([](const StreamRow& each) { return each.bytes.sent; }), number("received"),
         number("sent"), own([](const StreamRow& each) { return each.bytes.received; }),
         waits ? ControlCell(std::string(stall_name(*row->waits_for))) : ControlCell(),
         text("waits_for"), waits ? ControlCell(milliseconds(row->waits)) : ControlCell(),
         number("waiting"), std::string(client ? kClient : kServer),
         row != nullptr ? cell_of(row->number) : number("number"), text("stream"),
         own([](const StreamRow& each) { return milliseconds(each.age); }), number("age")});
  }
  return table;
}

ControlTable far_why_table(const StreamRows& here, const FarTable& there) {
  std::vector<Wait> waits;
  for (size_t row = 0; row < there.rows(); ++row) {
    // Of a listener that waits, which is no stream.
    if (there.text(row, "stream")) continue;
    waits.push_back({{},
                     "there",
                     cell_of(there.text(row, "service")),
                     there.number(row, "waiting").value_or(0),
                     reason_there(there.text(row, "waits_for")),
                     cell_of(there.text(row, "waits_for")),
                     {}});
  }
  for (const ListenerRow& row : here.listeners) {
    waits.push_back({{},
                     "here",
                     row.service,
                     milliseconds(row.waits),
                     std::string(reason_text(row.reason)),
                     std::string(stall_name(row.reason)),
                     {}});
  }
  for (const Pair& pair : pairs_of(here, there)) {
    const StreamRow* const row = pair.here;
    const ControlCell name = row != nullptr ? ControlCell(to_string(row->name)) : ControlCell();
    const ControlCell name_there =
        pair.there ? cell_of(there.text(*pair.there, "stream")) : ControlCell();
    if (row != nullptr && row->waits_for) {
      waits.push_back({name, "here", row->service, milliseconds(row->waits),
                       std::string(reason_text(*row->waits_for)),
                       std::string(stall_name(*row->waits_for)), name_there});
    }
    if (!pair.there || !there.text(*pair.there, "waits_for")) continue;
    waits.push_back(
        {name, "there",
         row != nullptr ? ControlCell(row->service) : cell_of(there.text(*pair.there, "service")),
         there.number(*pair.there, "waiting").value_or(0),
         reason_there(there.text(*pair.there, "waits_for")),
         cell_of(there.text(*pair.there, "waits_for")), name_there});
  }
  std::stable_sort(waits.begin(), waits.end(),
                   [](const Wait& one, const Wait& other) { return one.waiting > other.waiting; });
  ControlTable table{.columns = {{"stream"},
                                 {"end"},
                                 {"service"},
                                 {"waiting", kSeconds},
                                 {"reason"},
                                 {"waits_for", kNone, kJson},
                                 {"stream_there", kNone, kJson}},
                     .rows = {}};
  for (const Wait& wait : waits) {
    table.rows.push_back({wait.stream, std::string(wait.end), wait.service, wait.waiting,
                          wait.reason, wait.waits_for, wait.there});
  }
  return table;
}

ControlTable far_status_table(const FarTable& there) {
  struct Known {
    std::string_view name;
    enum class Kind : uint8_t { kText, kNumber } kind;
    ColumnUnit unit = kNone;
  };
  constexpr Known::Kind kText = Known::Kind::kText;
  constexpr Known::Kind kNumber = Known::Kind::kNumber;
  constexpr Known kKnown[] = {{"version", kText},
                              {"state", kText},
                              {"uptime", kNumber, kSeconds},
                              {"driver", kText},
                              {"channel", kText},
                              {"sessions", kNumber},
                              {"streams", kNumber},
                              {"sent", kNumber, kBytes},
                              {"received", kNumber, kBytes},
                              {"in_flight", kNumber, kBytes},
                              {"buffered", kNumber, kBytes},
                              {"memory_limit", kNumber, kBytes}};
  ControlTable table{.columns = {}, .rows = {{}}};
  for (const Known& known : kKnown) {
    table.columns.push_back({known.name, known.unit});
    ControlCell cell;
    if (there.rows() > 0) {
      cell = known.kind == kText ? cell_of(there.text(0, known.name))
                                 : cell_of(there.number(0, known.name));
    }
    table.rows.front().push_back(std::move(cell));
  }
  return table;
}

}  // namespace virtproxy
