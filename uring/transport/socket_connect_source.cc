#include "uring/transport/socket_connect_source.h"

namespace virtproxy {

SocketConnectSource::SocketConnectSource(const TransportSetup& setup)
    : SocketSource(setup), connector_(setup.loop, setup.resolver_driver, this) {}

void SocketConnectSource::acquire() {
  spare().release();
  connector_.start(spec().address, kConnectTimeout);
}

void SocketConnectSource::connected(int fd) {
  // The last bytes before the end still have to arrive.
  if (spec().address.kind == Address::Kind::kTcp) end_on_close(fd);
  connection_ready(fd, peer_identity_of(fd));
}

void SocketConnectSource::connect_failed(Fault, const std::string& reason) { try_later(reason); }

}  // namespace virtproxy
