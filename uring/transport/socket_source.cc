#include "uring/transport/socket_source.h"

#include <chrono>

namespace virtproxy {

SocketSource::SocketSource(const TransportSetup& setup)
    : TransportSource(setup), peer_timeout_(setup.loop, this) {}

std::string SocketSource::peer() const {
  return peer_.kind == PeerIdentity::Kind::kUnknown ? TransportSource::peer() : describe(peer_);
}

void SocketSource::connection_ready(int fd, const PeerIdentity& peer) {
  peer_ = peer;
  if (spec().address.kind == Address::Kind::kTcp) {
    prepare_tcp(fd);
    peer_timeout_.start(fd, to_duration(spec().peer_timeout));
  }
  ready(fd, transport_traits::kSocket);
}

void SocketSource::peer_timed_out() {
  client().transport_broken("the other end's machine does not answer (--peer-timeout)");
}

}  // namespace virtproxy
