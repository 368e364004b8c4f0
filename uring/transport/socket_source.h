// What the sources of socket channels share: how a connected socket is prepared, and that a TCP
// channel ends when the other machine does not answer.
#pragma once

#include "uring/transport/peer_timeout.h"
#include "uring/transport/transport_source.h"

namespace virtproxy {

class SocketSource : public TransportSource, private PeerTimeout::Client {
 public:
  explicit SocketSource(const TransportSetup& setup);

 protected:
  // The socket is connected and does not block.
  void connection_ready(int fd);

 private:
  void closing() override { peer_timeout_.stop(); }
  void peer_timed_out() override;

  PeerTimeout peer_timeout_;
};

}  // namespace virtproxy
