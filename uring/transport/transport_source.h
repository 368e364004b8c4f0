// Getting, losing and getting back the descriptor that a channel runs over.
//
// Each kind of channel has a source (transport_kind.h):
//
//   SocketConnectSource   connects with backoff, for ever
//   SocketListenSource    accepts one peer at a time
//   DeviceSource          opens a character device, again until it is there
//
// A source gets a descriptor in acquire() and reports it with ready(), or reports with try_later()
// why there is none. This class has what is common to all: the descriptor, when the next attempt is
// made, and that the log names a reason once.
//
// A source keeps one descriptor number for itself at all times: its connection, or a placeholder.
// So a channel still comes back when clients have taken all other numbers.
//
// A source does not look at bytes: it hands out a descriptor and is told when that is of no use any
// more.
#pragma once

#include <memory>
#include <string>

#include "core/peer_backoff.h"
#include "uring/base/spare_descriptor.h"
#include "uring/io/loop.h"
#include "uring/net/acl.h"
#include "uring/net/peer_identity.h"
#include "uring/net/resolver_driver.h"
#include "uring/net/sockets.h"
#include "uring/transport/channel_spec.h"
#include "uring/transport/traits.h"

namespace virtproxy {

struct TransportSetup;

class TransportSource : protected Timer::Owner {
 public:
  class Client {
   public:
    // A new descriptor; it belongs to the source, until lost() or stop().
    virtual void transport_ready(int fd, const TransportTraits& traits) = 0;
    // An attempt to get one has failed; there will be others.
    virtual void transport_unavailable() = 0;
    // The descriptor is of no use any more.
    virtual void transport_broken(const std::string& reason) = 0;
    // The listener closed the connection of a peer.
    virtual void peer_closed() = 0;
    // The same, for people: limited in rate.
    virtual void peer_refused(const std::string& peer, std::string_view reason) = 0;

   protected:
    ~Client() = default;
  };

  explicit TransportSource(const TransportSetup& setup);
  TransportSource(const TransportSource&) = delete;
  TransportSource& operator=(const TransportSource&) = delete;
  // The class that overrides acquire() calls stop() in its own destructor.
  virtual ~TransportSource() = default;

  // Makes the first attempt. `listening` is what was bound for a kind that listens, else empty.
  virtual void start(Listening listening);
  // The peer has sent something: it keeps the channel.
  virtual void heard() {}
  // Nothing is received or sent any more through a socket, so that each operation on it ends. Comes
  // before operations are cancelled, see SendMode.
  void shut();
  // The descriptor is of no use any more: no operation on it may be pending. Gets another one,
  // after `backoff` if the peer misbehaved.
  void lost(Duration backoff);
  // Gives the address up, so that another process can listen there. The connection stays, those
  // that wait for its place are closed.
  virtual void stop_listening() {}
  // Closes everything. The client is not called any more.
  void stop();
  // Nothing of the source is known to the kernel.
  virtual bool idle() const { return true; }
  // The other end for the log: address, user and process, or CID; the channel's own address if
  // nothing is known of it.
  virtual std::string peer() const { return spec_.address.to_string(); }

 protected:
  static constexpr Duration kFirstBackoff = std::chrono::milliseconds(50);
  static constexpr Duration kLastBackoff = ReconnectBackoff::kLongest;

  // Gets a descriptor: calls ready() or try_later(), now or in a later turn. There is none, and the
  // source is not stopped.
  virtual void acquire() = 0;
  // No descriptor is wanted until the next acquire().
  virtual void suspend() {}
  // The descriptor is about to be closed.
  virtual void closing() {}
  // The source is stopped: what acquire() began is given up.
  virtual void cancel() {}
  // After the loss of a descriptor the next attempt waits at least that long: a peer that accepts
  // connections only to drop them must not make the channel spin.
  virtual Duration least_pause() const { return kFirstBackoff; }

  void ready(int fd, const TransportTraits& traits);
  // The attempt has failed; the next one is made after a backoff that doubles.
  void try_later(const std::string& reason);
  // Logs the reason, unless the last attempt failed for the same one.
  void complain(const std::string& reason);
  // The next attempt has a time, which has not come.
  bool waits() const { return retry_.armed(); }
  void expired(Timer& timer) override;

  Loop& loop() const { return loop_; }
  const ChannelSpec& spec() const { return spec_; }
  Client& client() const { return *client_; }
  int fd() const { return fd_; }
  SpareDescriptor& spare() { return spare_; }

 private:
  void try_now();
  void hang_up();

  Loop& loop_;
  const ChannelSpec& spec_;
  Client* client_;
  Timer retry_;
  int fd_ = -1;
  SpareDescriptor spare_;  // while there is no fd_
  Duration backoff_ = kFirstBackoff;
  std::string last_reason_;
  bool stopped_ = false;
};

// What a source is made from. All of it must outlive the source.
struct TransportSetup {
  Loop& loop;
  ResolverDriver& resolver_driver;
  const ChannelSpec& spec;
  const Acl& peers;  // who may be the other end of a listener
  TransportSource::Client* client;
};

// For the table of kinds.
template <typename Source>
std::unique_ptr<TransportSource> make_source(const TransportSetup& setup) {
  return std::make_unique<Source>(setup);
}

}  // namespace virtproxy
