// The agreement on a session, over a transport that may hold bytes of earlier sessions and need not
// report that the other end was replaced.
//
//   waiting      HELLO(own epoch, echo of the last epoch seen) is sent, again with backoff. Input
//   is
//                skipped up to a HELLO.
//   established  A HELLO that echoes our epoch was read; what follows it are frames. Ours is sent
//                before our first frame if the last one sent did not echo the peer's epoch.
//
// A peer that is established already and reads another HELLO of this session that we sent while
// waiting answers it again, in case its first answer was lost. An answer has the number of frames
// that were sent before it. An end that missed some of them is too late to join, and draws a new
// epoch.
//
// A HELLO with a new epoch between two frames means that the peer has restarted: this end waits
// again, with a new epoch of its own. A HELLO inside an unfinished frame may mean the same, or be
// the payload of an application. Only the peer's daemon sees our epochs, so a probe decides: a
// HELLO marked `probe` carries a fresh epoch, which only a restarted peer can echo.
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
  // The interval between unanswered HELLOs doubles up to this, until the next restart.
  void set_longest_interval(Duration interval) { longest_interval_ = interval; }

  State state() const { return state_; }
  uint64_t epoch() const { return epoch_; }
  const Hello& peer() const {
    VP_ASSERT(peer_);
    return *peer_;
  }
  // Frames may be sent: what was sent before names their session.
  bool may_speak() const { return state_ == State::kEstablished && introduced(); }

  // There is a transport. Nothing is sent before `now + backoff`.
  void start(Instant now, Duration backoff);
  void stop();
  // Sends at once what the backoff still delays.
  void end_backoff(Instant now);

  // Starts over on the same transport, and answers `peer` if its HELLO was read already.
  void restart(Instant now, Duration backoff, const std::optional<Hello>& peer);

  // A HELLO was read while waiting. True when it establishes the session.
  bool on_hello(const Hello& hello, Instant now);

  // A HELLO was read between frame `frames` and the next one of an established session.
  enum class Meaning : uint8_t {
    kNothing,     // go on
    kRestarted,   // the peer is in another session, or on its way to one
    kFramesLost,  // the peer sent more frames than arrived
  };
  Meaning between_frames(const Hello& hello, uint64_t frames, Instant now);

  // A HELLO was found inside an unfinished frame: a probe is sent. True if this HELLO answers our
  // probe; then the session is over and adopt() begins the next one.
  bool suspect(const Hello& hello, Instant now);
  // True if the peer sent it in this session: no other process knows the epochs.
  bool is_of_session(const Hello& hello) const {
    return hello.joined && hello.epoch == peer().epoch && hello.echo == epoch_;
  }
  void adopt(const Hello& hello, Instant now);
  void clear_suspicion();

  // Sends another HELLO in the established session, with the number of frames before it.
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
