// The limits of one session. Those of the protocol itself are in wire/protocol_limits.h.
//
// A session has a budget of memory for bytes that came over the channel and that no socket has
// consumed yet. Half of it is promised: each of max_streams streams owns initial_window bytes from
// the moment it opens, whatever the others do. The other half is shared: streams that move data
// quickly borrow from it, up to max_window each, and return it as they slow down.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/time.h"
#include "core/wire/protocol_limits.h"

namespace virtproxy {

struct SessionLimits {
  uint32_t max_streams = 1024;          // open at once, both directions together
  uint32_t initial_window = 16384;      // promised to every stream, bytes
  uint32_t max_window = 1u << 20;       // most a stream may be granted ahead, bytes
  uint64_t receive_budget = 64u << 20;  // all grants together, bytes
  uint32_t max_frame = 65536;           // DATA payload this end takes, bytes
};

// What version 1 needs besides: it has no credit.
struct V1Limits {
  // What a stream may hold for a slow socket before reading stops, bytes; never more than the
  // budget allows.
  uint64_t hold = 1u << 30;
  // How long a stream whose socket takes nothing may keep others waiting.
  Duration stall_timeout = std::chrono::seconds(20);
  Duration ack_timeout = std::chrono::seconds(15);  // for the answer to an INIT
};

// How many streams can be promised the least window out of `receive_memory` bytes, and how many
// bytes that takes for `streams`.
uint64_t most_streams(uint64_t receive_memory);
uint64_t least_receive_memory(uint64_t streams);

// Divides `receive_memory` bytes among `max_streams` streams of at most `window` bytes each.
// initial_window is 0 when max_streams exceeds most_streams().
SessionLimits derive_limits(uint64_t receive_memory, uint32_t max_streams, uint32_t window,
                            uint32_t max_frame);

}  // namespace virtproxy
