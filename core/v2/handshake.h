// Agreeing on a session over a link that may hold bytes of earlier lives, and that need not tell
// when the other end is replaced.
//
//   waiting      HELLO(mine, echo of what was last seen) goes out, and again with back-off; what
//                comes in is skipped up to a HELLO.
//   established  a HELLO that echoes our epoch has been read: what follows it are frames. Ours goes
//                out before our first frame if the last one sent did not echo the peer's epoch.
//
// A peer that is established already and still reads our HELLO of this session from the waiting
// state answers it again, in case its first answer was lost. Answers say how many frames went
// before them, so that an end which missed some knows that it is too late to join, and draws a new
// epoch.
//
// A HELLO of a new epoch between two frames means that the peer started anew: back to waiting, with
// a new epoch of our own. One that appears inside an unfinished frame may be that too, or
// somebody's payload. Nobody but the peer's daemon sees our epochs, so the question is settled by
// asking: a HELLO marked `probe` carries a fresh epoch, and only a restarted peer can echo it.
#pragma once

#include <cstdint>
#include <optional>

#include "core/assert.h"
#include "core/siphash.h"
#include "core/time.h"
#include "core/wire/hello.h"

namespace virtproxy {

class Handshake {
 public:
  enum class State : uint8_t { kDown, kWaiting, kEstablished };

  // `identity` gives the limits and features to announce. Epochs are SipHash values of a counter: a
  // peer that has seen any number of them cannot tell the next one without `epoch_key`, which is
  // random and used for nothing else.
  Handshake(const Hello& identity, const HashKey& epoch_key)
      : identity_(identity), epoch_key_(epoch_key) {}

  void set_identity(const Hello& identity) { identity_ = identity; }
  // Intervals between unanswered greetings double up to this, until the next restart.
  void set_longest_interval(Duration interval) { longest_interval_ = interval; }

  State state() const { return state_; }
  uint64_t epoch() const { return epoch_; }
  const Hello& peer() const {
    VP_ASSERT(peer_);
    return *peer_;
  }
  // Frames may be sent: the peer can tell from what was sent before which session they belong to.
  bool may_speak() const { return state_ == State::kEstablished && introduced(); }

  // The link is up (again). Nothing is sent before `now + backoff`.
  void start(Instant now, Duration backoff);
  void stop();
  // What was asked to be patient about is settled.
  void end_backoff(Instant now);

  // Starts over on the same link, answering `peer` if it has spoken already.
  void restart(Instant now, Duration backoff, const std::optional<Hello>& peer);

  // A HELLO was read while waiting. True when it establishes the session.
  bool on_hello(const Hello& hello, Instant now);

  // A HELLO was read between two frames of an established session, the `frames` th and the next.
  enum class Meaning : uint8_t {
    kNothing,     // go on
    kRestarted,   // the peer is in another session, or on its way to one
    kFramesLost,  // the peer sent more frames than arrived
  };
  Meaning between_frames(const Hello& hello, uint64_t frames, Instant now);

  // A HELLO was seen inside an unfinished frame: ask its sender. True when this one is the answer
  // to our question; then the session is over and adopt() begins the next one.
  bool suspect(const Hello& hello, Instant now);
  // Whether the peer wrote it in this session, as only the peer can.
  bool is_of_session(const Hello& hello) const {
    return hello.joined && hello.epoch == peer().epoch && hello.echo == epoch_;
  }
  void adopt(const Hello& hello, Instant now);
  void clear_suspicion();

  // Writes another HELLO in the established session, to tell how many frames went before it.
  void repeat(Instant now) {
    VP_ASSERT(may_speak());
    hello_at_ = now;
  }

  // The HELLO to send now, if one is due. Calling it counts as sending. `frames` were sent before
  // it in the present session, if there is one.
  bool due(Instant now) const;
  Hello take(uint64_t frames, Instant now);
  std::optional<Instant> due_at() const;

 private:
  uint64_t next_epoch();

  struct Suspect {
    Hello hello;
    uint64_t epoch;  // ours, should the suspicion hold
  };

  bool introduced() const { return peer_ && echo_sent_ == peer_->epoch; }
  void draw_epoch();

  Hello identity_;
  HashKey epoch_key_;
  uint64_t epochs_drawn_ = 0;

  State state_ = State::kDown;
  uint64_t epoch_ = 0;
  uint64_t echo_sent_ = 0;  // by the last HELLO of this epoch
  std::optional<Hello> peer_;
  Instant not_before_{};
  std::optional<Instant> hello_at_;
  Duration interval_{};
  Duration longest_interval_{};

  std::optional<Suspect> suspect_;
  std::optional<Instant> probe_at_;
  std::optional<Instant> probed_at_;
};

}  // namespace virtproxy
