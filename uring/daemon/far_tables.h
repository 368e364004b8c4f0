// What `far` answers: a stream as both ends see it.
#pragma once

#include "uring/daemon/control_table.h"
#include "uring/daemon/far_text.h"
#include "uring/daemon/stream_rows.h"

namespace virtproxy {

// What this end tells the other one of its streams, of a list of one channel.
ControlTable streams_for_far(const StreamRows& found);

// A row for each stream that either end knows. Streams are the same where their number is, and the
// client of one end is the service of the other.
ControlTable far_streams_table(const StreamRows& here, const FarTable& there);
// A row for each wait at either end, the longest first.
ControlTable far_why_table(const StreamRows& here, const FarTable& there);
// The columns that are known here.
ControlTable far_status_table(const FarTable& there);

}  // namespace virtproxy
