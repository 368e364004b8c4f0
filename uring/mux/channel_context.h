// What the parts of one channel share. The Channel owns it, and it outlives all of them.
//
// Every call of `selector` that may begin or end something appends to `events`. Only the Channel
// handles and discards them, by the rules of core/session.h.
#pragma once

#include <string>

#include "core/protocol_selector.h"
#include "uring/buffers/receive_pool.h"
#include "uring/buffers/slices.h"
#include "uring/io/loop.h"
#include "uring/io/pipes.h"
#include "uring/mux/counters.h"
#include "uring/mux/observer.h"

namespace virtproxy {

struct ChannelContext {
  const std::string label;  // what log lines and statistics call the channel
  Loop& loop;
  ProtocolSelector selector;
  ReceivePool buffers;
  SlicePool slices;
  PipePool pipes;
  Wakeup wakeup;  // of the Channel, for this turn or the next one
  Events events{};
  ObserverList observers{};
  ChannelCounters counters{};
  uint64_t held_bytes = 0;  // kept for applications that were full; the send queues add them up
};

}  // namespace virtproxy
