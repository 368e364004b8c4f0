// Ends a TCP channel whose peer machine does not answer any more, whether the channel is idle or
// has data in flight.
//
// The kernel does most of it: keepalive probes an idle connection, and TCP_USER_TIMEOUT limits how
// long sent bytes may stay unacknowledged. Alone, TCP_USER_TIMEOUT also ends a connection whose
// peer machine answers but whose peer process does not read: its window stays closed while it is
// stopped, or while the guest behind an emulator is paused. Such a peer is not dead. While the
// window is closed, TCP_USER_TIMEOUT is therefore off and what the peer machine acknowledges is
// watched here.
#pragma once

#include "uring/io/timers.h"

namespace virtproxy {

class Loop;

class PeerTimeout final : private Timer::Owner {
 public:
  class Client {
   public:
    virtual void peer_timed_out() = 0;

   protected:
    ~Client() = default;
  };

  PeerTimeout(Loop& loop, Client* client);

  // From now on for this connection, which must stay open until stop(). A `limit` of zero waits
  // for ever.
  void start(int fd, Duration limit);
  void stop();

 private:
  enum class Window : uint8_t { kOpen, kClosed };

  void expired(Timer& timer) override;
  void set_window(Window window);

  Loop& loop_;
  Client* client_;
  Timer check_;
  int fd_ = -1;
  Duration limit_{};
  Window window_ = Window::kOpen;
};

}  // namespace virtproxy
