// What the sources of socket channels share: how a connected socket is prepared, and that a TCP
// channel ends when the other machine does not answer.
#pragma once

#include <string>

#include "uring/net/peer_identity.h"
#include "uring/transport/peer_timeout.h"
#include "uring/transport/transport_source.h"

namespace virtproxy {

class SocketSource : public TransportSource, private PeerTimeout::Client {
 public:
  explicit SocketSource(const TransportSetup& setup);

  std::string peer() const override;

 protected:
  // The socket is connected to `peer` and does not block.
  void connection_ready(int fd, const PeerIdentity& peer);
  // Of the peer that was connected last.
  const PeerIdentity& identity() const { return peer_; }

 private:
  void closing() override { peer_timeout_.stop(); }
  void peer_timed_out() override;

  PeerTimeout peer_timeout_;
  PeerIdentity peer_;
};

}  // namespace virtproxy
