#include "uring/transport/socket_listen_source.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "uring/net/peer_identity.h"

namespace virtproxy {

SocketListenSource::SocketListenSource(const TransportSetup& setup)
    : SocketSource(setup), candidates_(setup.loop, setup.spec, setup.peers, this) {}

void SocketListenSource::start(Listening listening) {
  if (!listening.sockets.empty()) {
    // One peer at a time, so one socket: of a name with several addresses the first.
    const int listener = listening.sockets.front();
    // A peer may be gone again between the poll and the accept.
    fcntl(listener, F_SETFL, O_NONBLOCK);
    candidates_.start(listener);
    bound_ = std::move(listening.path);
    std::for_each(listening.sockets.begin() + 1, listening.sockets.end(), close);
    log_info("channel {}: listening on {}", spec().name, spec().address.to_string());
  }
  TransportSource::start({});
}

void SocketListenSource::acquire() {
  spare().hold();
  candidates_.resume();
  const auto taken = candidates_.take(spare());
  if (!taken) return;
  peer_state_ = PeerState::kSilent;
  connection_ready(taken->fd, taken->identity);
}

void SocketListenSource::candidate_came() {
  // After a peer that misbehaved the next one has to wait.
  if (fd() < 0) return waits() ? void() : acquire();
  if (peer_state_ != PeerState::kSilent) return;
  const auto newcomer = candidates_.first_that_spoke();
  if (!newcomer) return;
  // Bytes of the peer, or its end, may be there and not read yet.
  pollfd present{fd(), POLLIN, 0};
  if (poll(&present, 1, 0) != 0) return;
  peer_state_ = PeerState::kLeaving;
  if (const auto hidden = replacements_.allow(loop().now())) {
    log_warn("channel {}: the peer, {}, has sent nothing; {} has, and takes its place{}",
             spec().name, describe(identity()), describe(*newcomer), and_others(*hidden));
  }
  client().transport_broken("replaced by a peer that has sent something");
}

std::optional<PeerIdentity> SocketListenSource::present_peer() const {
  if (fd() < 0) return std::nullopt;
  return identity();
}

void SocketListenSource::accept_failed(const std::string& reason) {
  if (fd() < 0) complain(reason);
}

void SocketListenSource::stop_listening() {
  bound_.remove();
  candidates_.stop();
}

}  // namespace virtproxy
