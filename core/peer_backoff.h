// How long a peer that misbehaves has to wait. Both rules are decided here and nowhere else.
//
//   FaultBackoff      its faults end sessions: 50 ms, doubled with each fault in a row, up to 6.4 s
//   ReconnectBackoff  it connects and leaves in a tight loop: 50 ms each time, after 8 in a row;
//                     where it closes connections of this end without having sent anything, the
//                     wait doubles with each of them
//
// A session applies the first by greeting later. A driver that drops the connection of such a peer
// applies it by taking the next one later. One count serves both, so that a peer gains nothing from
// connecting anew.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "core/time.h"

namespace virtproxy {

class FaultBackoff {
 public:
  static constexpr Duration kFirst = std::chrono::milliseconds(50);
  static constexpr unsigned kMostDoublings = 7;
  static constexpr Duration kLongest = kFirst * (1u << kMostDoublings);
  // A session that lasted longer than this is followed by a clean record.
  static constexpr Duration kStableAfter = std::chrono::seconds(10);

  void link_began() { before_link_ = in_row_; }
  void session_began(Instant now) { began_ = now; }
  // A session has ended by a fault of the peer. The first `free` in a row cost nothing.
  Duration fault(Instant now, unsigned free) {
    if (now - began_ > kStableAfter) in_row_ = 0;
    const unsigned fault = in_row_++;
    last_ =
        fault < free ? Duration::zero() : kFirst * (1u << std::min(fault - free, kMostDoublings));
    return last_;
  }
  // What the last fault led to.
  Duration last() const { return last_; }
  // What looked like faults on this link was none of the peer's doing. Those of earlier links count
  // on: otherwise a peer that was dropped could clear its record by silence.
  void forgive() {
    in_row_ = std::min(in_row_, before_link_);
    last_ = Duration::zero();
  }

 private:
  Instant began_{};
  unsigned in_row_ = 0;
  unsigned before_link_ = 0;  // of those
  Duration last_{};
};

class ReconnectBackoff {
 public:
  // A connection that lasted no longer than this is a short one.
  static constexpr Duration kShort = std::chrono::seconds(1);
  static constexpr unsigned kFree = 8;
  static constexpr Duration kDelay = std::chrono::milliseconds(50);
  // What doubles ends here. An access list of the other end refuses for good, but a relay closes
  // connections as well while the daemon behind it is restarted. This end comes back after that as
  // soon as one that finds no listener at all, which waits as long.
  static constexpr Duration kLongest = std::chrono::seconds(2);

  // Of a connection that is lost: what its peer has sent. kNothing doubles the wait.
  enum class Heard : uint8_t { kNothing, kSomething };

  void connected(Instant now) { since_ = now; }
  // How long to wait before the next connection.
  Duration lost(Instant now, Heard heard) {
    if (now - since_ > kShort) short_in_row_ = unheard_in_row_ = 0;
    unheard_in_row_ = heard == Heard::kNothing ? unheard_in_row_ + 1 : 0;
    if (++short_in_row_ <= kFree) return Duration::zero();
    // A wait that follows one that was heard is not doubled.
    const unsigned doublings = unheard_in_row_ > kFree ? unheard_in_row_ - kFree - 1 : 0;
    return std::min(kDelay * (1u << std::min(doublings, kMostDoublings)), kLongest);
  }
  // Connections up to the last one that were short.
  unsigned short_in_row() const { return short_in_row_; }

 private:
  static constexpr unsigned kMostDoublings = 6;
  static_assert(kDelay * (1u << kMostDoublings) >= kLongest);

  Instant since_{};
  unsigned short_in_row_ = 0;    // that the peer closed at once
  unsigned unheard_in_row_ = 0;  // of those the last ones, if nothing was heard on them
};

}  // namespace virtproxy
