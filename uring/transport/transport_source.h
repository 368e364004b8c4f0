// Getting, losing and getting back the descriptor that a channel runs over.
//
//   connect methods   connect with backoff, for ever
//   listen methods    one peer at a time; others wait (candidates.h) until it is gone, or until one
//                     of them sends something and the peer never has
//   device methods    open a character device, a tty in raw mode; try again until it is there
//
// A TransportSource keeps one descriptor for itself at all times: its connection, or a placeholder.
// So when clients have taken all others, a channel still comes back.
//
// A TransportSource has no opinion on bytes: it hands out a descriptor and is told when that is of
// no use any more.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "uring/base/log.h"
#include "uring/base/spare_descriptor.h"
#include "uring/io/loop.h"
#include "uring/net/acl.h"
#include "uring/net/connector.h"
#include "uring/net/sockets.h"
#include "uring/transport/candidates.h"
#include "uring/transport/channel_spec.h"
#include "uring/transport/peer_timeout.h"
#include "uring/transport/traits.h"

namespace virtproxy {

class TransportSource final : private Timer::Owner,
                              private Candidates::Client,
                              private Connector::Client,
                              private PeerTimeout::Client {
 public:
  class Client {
   public:
    // A new descriptor; it belongs to the TransportSource, until lost() or close().
    virtual void transport_ready(int fd, const TransportTraits& traits) = 0;
    // An attempt to get one has failed; there will be others.
    virtual void transport_unavailable() = 0;
    // The descriptor is of no use any more.
    virtual void transport_broken(const std::string& reason) = 0;

   protected:
    ~Client() = default;
  };

  // `spec` and `peers`, who may be the other end of a listener, must outlive the TransportSource.
  TransportSource(Loop& loop, ResolverDriver& resolver_driver, const ChannelSpec& spec,
                  const Acl& peers, Client* client);
  ~TransportSource();

  // Accepts on `listening`, which only a listen method has, or begins to connect.
  void start(Listening listening);
  // The peer has sent something: it keeps the channel.
  void heard() { heard_ = true; }
  // The descriptor is of no use any more: no operation on it may be pending. Gets another one,
  // after `backoff` if the peer misbehaved.
  void lost(Duration backoff);
  // Gives the address up, so that another process can listen there. The connection stays, those
  // that wait for its place are closed.
  void stop_listening();
  void stop();
  bool idle() const { return candidates_.idle() && (!connector_ || connector_->idle()); }
  // The peer of a listener, for the log.
  std::string peer() const { return describe(origin_); }

 private:
  void candidate_came() override;
  void accept_failed(const std::string& reason) override;
  std::optional<PeerIdentity> present_peer() const override;
  void expired(Timer& timer) override;
  void connected(int fd) override;
  void connect_failed(Fault fault, const std::string& reason) override;
  void peer_timed_out() override;

  void acquire();
  void hang_up();
  void open_device();
  void complain(const std::string& reason);
  void try_later(const std::string& reason);
  void ready(int fd, const TransportTraits& traits);

  Loop& loop_;
  const ChannelSpec& spec_;
  Client* client_;
  Candidates candidates_;
  Timer retry_;
  PeerTimeout peer_timeout_;
  std::unique_ptr<Connector> connector_;
  BoundPath bound_;
  int fd_ = -1;
  PeerIdentity origin_;    // of the peer of a listener
  bool heard_ = false;     // it has sent something
  bool replaced_ = false;  // by another one, soon
  SpareDescriptor spare_;  // while there is no fd_
  Duration backoff_;
  RateLimit replacements_{2};
  std::string last_reason_;
  bool stopped_ = false;
};

}  // namespace virtproxy
