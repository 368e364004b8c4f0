// Finds out whether the other end reads the channel while streams have no credit: only then is it
// the application behind it that does not read.
//
// The session is probed (PING) a moment after a stream has run out of credit, and from time to time
// while one has none. An answer that does not come means that nothing of the channel is read: the
// other daemon, its machine or what is between them stands still.
#pragma once

#include "core/protocol_selector.h"
#include "uring/io/loop.h"
#include "uring/mux/counters.h"

namespace virtproxy {

class PeerProbe final : private Timer::Owner {
 public:
  PeerProbe(Loop& loop, ProtocolSelector& selector, Wakeup& wakeup, ChannelCounters& counters)
      : loop_(loop),
        selector_(selector),
        wakeup_(wakeup),
        counters_(counters),
        timer_(loop.timers(), this) {}

  // A stream has none.
  void credit_is_out() {
    if (!timer_.armed()) timer_.set(loop_.now() + kFirst);
  }

 private:
  // Most waits for credit are shorter than the first. An answer takes one round trip, on nearly
  // every channel less than the second.
  static constexpr Duration kFirst = std::chrono::milliseconds(50);
  static constexpr Duration kAnswer = std::chrono::milliseconds(50);
  static constexpr Duration kInterval = std::chrono::seconds(1);

  void expired(Timer& timer) override;

  Loop& loop_;
  ProtocolSelector& selector_;
  Wakeup& wakeup_;
  ChannelCounters& counters_;
  Timer timer_;
  Instant probe_at_{};  // not before
};

}  // namespace virtproxy
