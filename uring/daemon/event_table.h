// What the command `events` answers.
#pragma once

#include <string_view>
#include <vector>

#include "uring/daemon/control_table.h"
#include "uring/mux/event_ring.h"

namespace virtproxy {

// A row for each event of the channel, or of all if that is empty.
ControlTable events_table(const std::vector<ChannelEvent>& events, std::string_view channel);

}  // namespace virtproxy
