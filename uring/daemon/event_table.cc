#include "uring/daemon/event_table.h"

#include <fmt/format.h>

#include "uring/base/log.h"

namespace virtproxy {

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
                          event.text + and_counted(event.hidden, event.hidden_are), event.hidden});
  }
  return table;
}

}  // namespace virtproxy
