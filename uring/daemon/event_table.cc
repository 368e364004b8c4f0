#include "uring/daemon/event_table.h"

#include <fmt/format.h>

#include "uring/base/log.h"

namespace virtproxy {
namespace {

std::string hidden_text(const ChannelEvent& event) {
  if (event.hidden == 0 || event.hidden_are == Counted::kAlike) {
    return and_counted(event.hidden, event.hidden_are);
  }
  // They may be of other services.
  return fmt::format(" (and {} more {} before)", event.hidden,
                     kEventNames[static_cast<size_t>(event.kind)]);
}

}  // namespace

ControlTable events_table(const std::vector<ChannelEvent>& events, std::string_view channel) {
  constexpr ColumnUnit kNone = ColumnUnit::kNone;
  constexpr ColumnPlace kJson = ColumnPlace::kJson;
  ControlTable table{.columns = {{"number"},
                                 {"time"},
                                 {"channel"},
                                 {"event"},
                                 {"service"},
                                 {"text"},
                                 {"suppressed", kNone, kJson}},
                     .rows = {}};
  for (const ChannelEvent& event : events) {
    if (!channel.empty() && channel != event.channel) continue;
    table.rows.push_back({event.number, utc_time(event.time), event.channel,
                          std::string(kEventNames[static_cast<size_t>(event.kind)]),
                          event.service.empty() ? ControlCell() : ControlCell(event.service),
                          event.text + hidden_text(event), event.hidden});
  }
  return table;
}

}  // namespace virtproxy
