// What the oracles remember of one channel: when its two ends were in one session, and whether
// something explains that they are not any more.
//
// A stream may be reset because its channel has no session, and a session may end because something
// happened to the channel. The two are judged apart: so a session that ends for no reason excuses
// nothing.
#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/time.h"

namespace virtproxy::sim {

class ChannelRecord {
 public:
  // After every turn of a daemon: which session both ends are in, 0 for none. False when one has
  // ended for no reason.
  bool note_session(uint64_t session, Instant now) {
    const Instant looked = std::exchange(looked_at_, now);
    if (session == session_) return true;
    const bool explained = session_ == 0 || explains(now);
    if (session_ == 0) {
      apart_.back().to = now;
    } else {
      // It ended within the turn, and time passes in a turn.
      apart_.push_back({looked, session == 0 ? Instant::max() : now});
    }
    session_ = session;
    since_ = now;
    return explained;
  }
  uint64_t session() const { return session_; }
  // There has never been anything but the present session.
  void begin() { apart_.clear(); }
  bool apart(Instant from, Instant to) const {
    return std::any_of(apart_.rbegin(), apart_.rend(), [&](const Interval& interval) {
      return interval.from <= to && from <= interval.to;
    });
  }
  // Since when nothing about the channel has kept a stream from moving.
  Instant undisturbed_since() const {
    return session_ == 0 ? Instant::max() : std::max(since_, hindered_until_);
  }

  // A device hides that the other end was replaced, and that bytes are missing.
  void set_hides(bool hides) { hides_ = hides; }
  // Something happened for which the session may end.
  void disturb(Instant now) {
    explain(std::max(now, hindered_until_) +
            (hides_ ? std::chrono::seconds(15) : std::chrono::seconds(3)));
  }
  // Whether the end of a session now would have a reason.
  bool explains(Instant now) const { return now <= explained_until_; }
  bool hides() const { return hides_; }
  void explain(Instant until) { explained_until_ = std::max(explained_until_, until); }
  // An end of it stands still: what has happened is noticed later, nothing moves, and the other end
  // may take it for one of protocol 1 that has nothing to say.
  void stand_still(Instant now, Instant until) {
    if (explains(now))
      explained_until_ = std::max(explained_until_, until + (explained_until_ - now));
    hinder(until);
    stood_until_ = std::max(stood_until_, until);
  }
  bool stood_since(Instant when) const { return stood_until_ >= when; }
  // Nothing may move for a while.
  void hinder(Instant until) { hindered_until_ = std::max(hindered_until_, until); }
  bool hindered_since(Instant when) const { return hindered_until_ >= when; }
  // The line changed what it carried.
  void spoil(Instant now) { spoilt_at_ = now; }
  bool spoilt() const { return spoilt_at_ != Instant{}; }
  bool spoilt_since(Instant when) const { return spoilt_at_ >= when; }
  // … in a way that protocol 1 has no means to notice.
  void falsify(Instant now) { falsified_at_ = now; }
  bool falsified_since(Instant when) const { return falsified_at_ >= when; }

  // An end is told to speak protocol 1 alone.
  void set_old(bool old) { old_ = old; }
  bool old() const { return old_; }
  // A stream was closed for holding the channel back.
  void note_stall(Instant now) { stalls_.push_back(now); }
  bool stalled_at(Instant when) const {
    return std::any_of(stalls_.begin(), stalls_.end(), [when](Instant at) {
      return at <= when && when - at <= std::chrono::seconds(1);
    });
  }
  // An end speaks protocol 1, which knows no half-close, no reset and no credit.
  void speak_old(Instant now) { last_spoken_old_ = now; }
  Instant last_spoken_old() const { return last_spoken_old_; }
  // Whether both ends have streams open now.
  void set_streams_open(std::function<bool()> ask) { streams_open_ = std::move(ask); }
  bool streams_open() const { return streams_open_ && streams_open_(); }
  // The far end is a hostile program: what is read on the channel is owed to nobody.
  void begin_hostility() { hostile_until_ = Instant::max(); }
  // … until what it wrote is out of the line. A connection that it left waits in the backlog for as
  // long as the attacked end lets the next peer wait, from when that runs again.
  void end_hostility(Instant now) {
    hostile_until_ = std::max(now, stood_until_) + std::chrono::seconds(15);
  }
  bool hostile_since(Instant when) const { return hostile_until_ >= when; }
  // So many streams share a slow line that one may wait for its turn until its end gives up.
  void crowd(Instant now) { last_crowded_ = now; }
  bool crowded_since(Instant when) const { return last_crowded_ >= when; }
  // There is no room for one more stream.
  void fill(Instant now) { last_full_ = now; }
  Instant last_full() const { return last_full_; }

 private:
  struct Interval {
    Instant from;
    Instant to;
  };

  bool hides_ = false;
  uint64_t session_ = 0;
  Instant since_{};
  Instant looked_at_{};
  std::vector<Interval> apart_{{Instant{}, Instant::max()}};
  Instant explained_until_{};
  Instant hindered_until_{};
  Instant stood_until_{};
  Instant last_spoken_old_{};
  Instant last_full_{};
  Instant last_crowded_{};
  Instant spoilt_at_{};
  std::vector<Instant> stalls_;
  Instant falsified_at_{};
  Instant hostile_until_{};
  bool old_ = false;
  std::function<bool()> streams_open_;
};

}  // namespace virtproxy::sim
