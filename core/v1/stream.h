// The state of one stream of version 1 at one end.
//
//   opener     kInitDue → kInitSent → kOpen → kClosed
//   acceptor   kConnecting → kAckDue  → kOpen → kClosed
//
// kClosed: CLOSE was read or is being sent; what was received before is still being delivered.
// kBroken: bytes may be lost; the stream carries nothing any more, and a later tick aborts it.
#pragma once

#include <array>
#include <cstdint>

#include "core/flow/scheduler.h"
#include "core/time.h"
#include "core/wire/protocol_limits.h"

namespace virtproxy {

struct V1Stream : Scheduled {
  enum class State : uint8_t { kInitDue, kInitSent, kConnecting, kAckDue, kOpen, kClosed, kBroken };
  // What its timer is for.
  enum class Wait : uint8_t { kNothing, kAck, kQuiet, kAnswer, kAbort, kLeave };

  int32_t ours = 0;    // our number for it: the client's if we opened it, the server's if not
  int32_t theirs = 0;  // the peer's, once known
  bool opener = false;
  State state = State::kInitDue;

  uint64_t queued = 0;
  uint64_t received = 0;
  uint64_t consumed = 0;
  bool blocked = false;          // the driver asked and there was none
  bool input_ended = false;      // our application sends no more
  bool broke_off = false;        // … it broke off: CLOSE follows what is queued at once
  bool discards = false;         // our application takes nothing any more
  bool spoke = false;            // our application has sent something
  bool sent = false;             // … of which some was written
  bool peer_spoke_last = false;  // the last bytes of this stream came from the peer

  Wait wait = Wait::kNothing;
  Instant wait_until{};

  // While `over_link` is linked, the stream holds more than it may, and the channel is not read.
  Instant over_since{};     // since when it takes nothing while others wait for the channel
  uint64_t over_consumed = 0;  // what had been taken then

  // Our numbers of earlier streams with the same client number of the peer. The peer may read their
  // ACK only now, and then uses them for this stream.
  static constexpr size_t kMostAliases = 4;
  std::array<int32_t, kMostAliases> aliases{};  // the latest last
  uint8_t alias_count = 0;

  IndexLink control_link;
  IndexLink ready_link;
  IndexLink wait_link;
  IndexLink over_link;

  // The service that INIT names, until INIT is sent.
  std::array<char, protocol_limits::kMaxService> service{};
  uint8_t service_size = 0;

  uint64_t held() const { return received - consumed; }
  // True if the stream would end in the middle of our data.
  bool broken_off() const { return sent && queued > 0; }
  void add_alias(int32_t number) {
    if (alias_count == kMostAliases) {
      for (size_t i = 1; i < kMostAliases; ++i) aliases[i - 1] = aliases[i];
      --alias_count;
    }
    aliases[alias_count++] = number;
  }
  // INIT or ACK has to be sent, or the end of our application has to be handled.
  bool control_pending() const {
    return state == State::kInitDue || state == State::kAckDue ||
           (state == State::kOpen && input_ended && queued == 0 && wait == Wait::kNothing);
  }
};

extern template class Scheduler<V1Stream>;  // session.cc

}  // namespace virtproxy
