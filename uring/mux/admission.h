// The clients of one end of a channel, from the moment they come until they have a stream or are
// refused.
//
// Nothing that an accept, a socket or a timer leads to opens a stream by itself: clients wait in an
// AdmissionQueue, and admit_next() alone takes them from there, when no event is left. Those that
// come while the protocol is being chosen stay in it until it is, and so do, for a moment, those
// that come before the link was tried for the first time.
//
// An end of version 1 that has no clients sends nothing until it is asked. So where version 1 was
// chosen because nothing had come, only clients can find out whether an end is there: some are
// let in, and if nothing has come within the time for which clients are held, the channel counts
// as down for clients. One at a time is let in to ask again; the others wait for the answer as long
// as a greeting may take.
//
// Owns no client: each belongs to its Opener, which gets it back by refuse(), or by open() with a
// stream.
#pragma once

#include <cstddef>

#include "uring/mux/admission_queue.h"
#include "uring/mux/stream_table.h"

namespace virtproxy {

class Admission final : private Timer::Owner {
 public:
  // Up to `most` clients wait.
  Admission(ChannelContext& channel, StreamTable& streams, size_t most);

  // --- clients ----------------------------------------------------------------------------------
  // A client that came, or one whose stream came to nothing. Refused where it cannot wait.
  void add(const WaitingClient& client);
  void put_back(const WaitingClient& client);
  bool empty() const { return queue_.empty(); }
  // Before admit_next(), once a turn.
  void begin_turn() { held_timer_.clear(); }
  // Admits or refuses the next client. False when none is to be admitted now. No event may be left.
  bool admit_next();
  // After the last admit_next() of a turn: sees to it that the rest has its turn.
  void end_turn();
  // No client has a stream from now on.
  void close();

  // --- the link ---------------------------------------------------------------------------------
  // A link was tried, and none is there: clients are told so.
  void link_unavailable() { first_link_timer_.clear(); }
  // A link begins, whose peer may take `grace` to greet.
  void link_began(Duration grace);
  void link_ended();
  void session_began() { first_link_timer_.clear(); }
  // Something has come over the link. True for the first time.
  bool on_input();
  bool has_input() const { return peer_ == Peer::kHeard; }
  // Nothing has come over this link, and version 1 was chosen for that reason.
  bool unanswered() const { return !has_input() && channel_.selector.chosen_by_silence(); }

 private:
  // What has come from the other end of this link. kMute: nothing, although it was asked.
  enum class Peer : uint8_t { kUnknown, kMute, kHeard };
  // Clients that ask an end that has sent nothing, at once.
  static constexpr size_t kMostProbes = 64;

  void expired(Timer& timer) override;
  void admit(const WaitingClient& client);
  void refuse(const WaitingClient& client, RefusalReason reason);
  void give_up_on_silence();
  bool holds_clients() const {
    return channel_.selector.choosing() || first_link_timer_.armed() || awaits_answer();
  }
  bool awaits_answer() const;
  Instant answer_due() const { return asked_at_ + grace_; }
  Instant hold_limit() const;
  RefusalReason why_held() const;
  RefusalReason why_no_stream() const;

  ChannelContext& channel_;
  StreamTable& streams_;
  AdmissionQueue queue_;
  Timer first_link_timer_;  // armed until the first session, or what stands in its way
  Timer held_timer_;        // until the next held client has waited long enough
  Timer silence_timer_;     // of an end that was asked and has sent nothing yet
  Duration grace_{};        // of this link
  Peer peer_ = Peer::kUnknown;
  Instant asked_at_{};  // by the last client that was let in meanwhile
  bool closed_ = false;
};

}  // namespace virtproxy
