// How long a peer that misbehaves has to wait. Both rules are decided here and nowhere else.
//
//   FaultBackoff      its faults end sessions: 50 ms, doubled with each fault in a row, up to 6.4 s
//   ReconnectBackoff  it connects and leaves in a tight loop: 50 ms each time, after 8 in a row
//
// A session applies the first by greeting later. A driver that drops the connection of such a peer
// applies it by taking the next one later. One count serves both, so that a peer gains nothing from
// connecting anew.
#pragma once

#include <algorithm>
#include <chrono>

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

  void connected(Instant now) { since_ = now; }
  // How long to wait before the next connection.
  Duration lost(Instant now) {
    if (now - since_ > kShort) short_in_row_ = 0;
    return ++short_in_row_ > kFree ? kDelay : Duration::zero();
  }
  // Connections up to the last one that were short.
  unsigned short_in_row() const { return short_in_row_; }

 private:
  Instant since_{};
  unsigned short_in_row_ = 0;  // that the peer closed at once
};

}  // namespace virtproxy
