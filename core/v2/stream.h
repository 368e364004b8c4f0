// The state of one stream at one end.
//
// Each direction is a sequence of bytes with absolute 64-bit offsets that only grow:
//
//   sending     sent ≤ sent + queued ≤ send_limit
//               the driver has `queued` bytes ready; send_limit is the peer's credit
//   receiving   consumed ≤ received ≤ granted
//               bytes between consumed and received wait for the local socket
//
// A direction ends with END (no more bytes, at this offset) and is over once DONE reports that the
// other application's socket took them all. A stream is over at an end when both directions are, or
// when RESET or RESET_AT went both ways. Only then is its number free: no frame of the old stream
// can meet the next one of that number.
//
// Nothing queues control frames. What must be sent is a set of pending facts, each sent at most
// once or superseded by its newer value, so that a peer cannot make an end pile up control traffic.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/fault.h"
#include "core/flow/scheduler.h"
#include "core/index_list.h"
#include "core/wire/protocol_limits.h"

namespace virtproxy {

struct Stream : Scheduled {
  uint32_t number = 0;  // on the wire
  bool ours = false;    // opened by this end

  uint64_t send_limit = 0;
  uint64_t sent = 0;
  uint64_t queued = 0;

  uint64_t granted = 0;
  uint64_t received = 0;
  uint64_t consumed = 0;
  uint32_t window = 0;  // how far ahead of `consumed` the next grant reaches

  // Pending facts.
  bool open_due = false;
  bool credit_due = false;
  bool end_due = false;  // once nothing is queued
  bool done_due = false;
  bool reset_due = false;
  bool reset_at_due = false;  // once nothing is queued

  bool end_sent = false;
  bool end_received = false;
  bool done_sent = false;
  bool done_received = false;
  bool reset_sent = false;
  bool reset_received = false;
  // No more bytes come and nothing is sent any more; what arrived has still to be delivered.
  bool reset_at_received = false;
  // Our application broke off: what arrives is dropped, and no more is granted.
  bool discards = false;
  Fault reset_fault = Fault::kNone;

  bool detached = false;      // the driver has let go: its data is discarded
  bool blocked = false;       // the driver asked and there was none

  IndexLink control_link;
  IndexLink ready_link;

  // What OPEN contains, until it is sent.
  std::array<std::byte, protocol_limits::kMaxOpenPayload> open_payload{};
  uint8_t open_length = 0;

  bool dead() const { return reset_due || reset_sent || reset_received; }
  bool ended() const { return end_sent && end_received && done_sent && done_received; }
  bool over() const { return ended() || (reset_sent && reset_received); }
  bool control_pending() const {
    if (reset_due) return true;
    return open_due || credit_due || ((end_due || reset_at_due) && queued == 0) || done_due;
  }
  uint64_t credit_left() const { return send_limit - sent - queued; }
  uint64_t held() const { return received - consumed; }
  uint64_t borrowed(uint32_t initial_window) const {
    if (dead()) return 0;
    const uint64_t outstanding = granted - consumed;
    return outstanding > initial_window ? outstanding - initial_window : 0;
  }
};

extern template class Scheduler<Stream>;  // session.cc

}  // namespace virtproxy
