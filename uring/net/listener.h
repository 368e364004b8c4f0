// Accepts the clients of one forward. When descriptors or memory run out it logs that once, leaves
// the clients in the kernel's backlog, and tries again after a short time. It can stop listening
// for a time (when_down.h).
#pragma once

#include "uring/io/loop.h"
#include "uring/net/forward_spec.h"

namespace virtproxy {

class Listener final : private Completion, private Timer::Owner {
 public:
  class Client {
   public:
    // The client owns `fd`.
    virtual void accepted(int fd, const ForwardSpec& forward) = 0;
    // Clients cannot be accepted since then, for `error` (an errno), or can again.
    virtual void accepting_stalled(int error, Instant since) = 0;
    virtual void accepting_resumed(int error, Instant since) = 0;

   protected:
    ~Client() = default;
  };

  // Accepts from `fd`, which it owns from now on. `forward` must outlive the listener.
  Listener(Loop& loop, const ForwardSpec& forward, int fd, Client* client);
  ~Listener();

  void stop();
  // Of TCP: clients are refused until resume(). Both may be called again.
  void pause();
  void resume();
  bool idle() const { return !accept_.pending; }

 private:
  enum class State : uint8_t {
    kAccepting,  // accept_ is pending, or is made again at once
    kResumed,    // the same, and nothing was accepted since the socket listens again
    kPaused,     // the socket does not listen
    kFailing,    // no descriptor or memory was left, which was logged; retry_ tries again
    kStopped,
  };

  void complete(Op& op, Outcome outcome) override;
  void expired(Timer& timer) override;
  void stalled(int error);
  void resumed();

  Loop& loop_;
  const ForwardSpec& forward_;
  Client* client_;
  Op accept_;
  Timer retry_;
  File file_;
  State state_ = State::kAccepting;
  // With kFailing.
  int error_ = 0;
  Instant stalled_since_{};
};

}  // namespace virtproxy
