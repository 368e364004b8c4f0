// The clients of one end of a channel, from the moment they come until they have a stream or are
// refused.
//
// An accept, a socket or a timer never opens a stream by itself: clients wait in an AdmissionQueue,
// and only admit_next() takes them from there, when no event is left. Clients that come while the
// protocol is being chosen wait until it is. Clients that come before the first attempt to get a
// transport has ended wait for that.
//
// An end of version 1 without clients sends nothing until it receives something. So where version 1
// was chosen because nothing had been received, only clients can find out whether an end is there.
// Some are admitted. If nothing is received within the time for which clients are held, the channel
// counts as down for clients: one at a time is admitted to try again, and the others wait for the
// answer as long as a HELLO may take.
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
  // A client that has arrived, or one whose stream came to nothing. Refused if it cannot wait.
  void add(const WaitingClient& client);
  void put_back(const WaitingClient& client);
  bool empty() const { return queue_.empty(); }
  // Before admit_next(), once a turn.
  void begin_turn() { held_timer_.clear(); }
  // Admits or refuses the next client. False when none is to be admitted now. No event may be left.
  bool admit_next();
  // After the last admit_next() of a turn: schedules a turn for the clients that are left.
  void end_turn();
  // No client has a stream from now on.
  void close();

  // --- the link ---------------------------------------------------------------------------------
  // The attempt to get a transport has failed: clients need not wait for it any more.
  void link_unavailable() { first_link_timer_.clear(); }
  // There is a transport, whose peer may take `grace` to send HELLO.
  void link_began(Duration grace);
  void link_ended();
  void session_began() { first_link_timer_.clear(); }
  // Bytes were received over the transport. True for the first ones.
  bool on_input();
  bool has_input() const { return peer_ == Peer::kHeard; }
  // Nothing was received over this transport, and version 1 was chosen for that reason.
  bool unanswered() const { return !has_input() && channel_.selector.chosen_by_silence(); }

 private:
  // What was received over this transport. kMute: nothing, although OPEN or INIT was sent.
  enum class Peer : uint8_t { kUnknown, kMute, kHeard };
  // Clients that are admitted at once while nothing was received.
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
