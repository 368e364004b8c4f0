// A channel over a socket that this end accepts: unix, TCP or vsock.
//
// One peer at a time has the channel. Others wait (candidates.h) until it is gone, or until one of
// them sends something and the peer never has.
#pragma once

#include <optional>

#include "uring/base/log.h"
#include "uring/transport/candidates.h"
#include "uring/transport/socket_source.h"

namespace virtproxy {

class SocketListenSource final : public SocketSource, private Candidates::Client {
 public:
  explicit SocketListenSource(const TransportSetup& setup);
  ~SocketListenSource() override { stop(); }

  void start(Listening listening) override;
  void heard() override { peer_state_ = PeerState::kHeard; }
  void stop_listening() override;
  bool idle() const override { return candidates_.idle(); }

 private:
  // Of the peer that has the channel.
  enum class PeerState : uint8_t {
    kSilent,
    kHeard,    // it has sent something
    kLeaving,  // a candidate takes its place in this turn
  };

  void acquire() override;
  void suspend() override { candidates_.pause(); }
  // The next peer may have been waiting for long.
  Duration least_pause() const override { return Duration::zero(); }
  void candidate_came() override;
  void accept_failed(const std::string& reason) override;
  void peer_closed() override { client().peer_closed(); }
  void peer_refused(const std::string& peer, std::string_view reason) override {
    client().peer_refused(peer, reason);
  }
  std::optional<PeerIdentity> present_peer() const override;

  Candidates candidates_;
  BoundPath bound_;
  PeerState peer_state_ = PeerState::kSilent;
  RateLimit replacements_{2};
};

}  // namespace virtproxy
