// What the commands `streams` and `why` answer.
#pragma once

#include "uring/daemon/control_table.h"
#include "uring/daemon/stream_rows.h"

namespace virtproxy {

// A wait for this reason, as this end sees it.
std::string_view reason_text(StallReason reason);

// A row for each stream.
ControlTable streams_table(const StreamRows& found);
// A row for each listener and stream that waits, with the reason for a person.
ControlTable why_table(const StreamRows& found);

}  // namespace virtproxy
