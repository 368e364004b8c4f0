// The forwards of one channel: services that are sockets to connect to (-i), and listeners whose
// clients are given streams (-o).
//
//   -i   SocketService   the peer asks for the name ──▶ Connection to the address
//   -o   SocketOpener    Listener ──▶ access list ──▶ Channel::admit() ──▶ Connection of the client
//                        While the channel is down they may be refused or held (when_down.h).
//
// Outlives the channel, since its connections use what is here. drained() and idle() come after the
// same of the channel.
//
// Forwards may change while streams are open: a connection keeps what it needs of its service, and an
// opener that listens no more stays until the last of its clients is gone.
#pragma once

#include <memory>
#include <vector>

#include "uring/mux/observer.h"
#include "uring/mux/service_registry.h"
#include "uring/net/forward_spec.h"
#include "uring/net/listener.h"
#include "uring/net/resolver_driver.h"
#include "uring/net/socket_closer.h"
#include "uring/net/sockets.h"
#include "uring/service/connection.h"

namespace virtproxy {

class Channel;

struct ForwardConfig {
  std::vector<ForwardSpec> oforwards;
  std::vector<ForwardSpec> iforwards;
  Duration connect_timeout{};  // of services that have none of their own
};

class SocketForwards final : private ChannelObserver {
 public:
  // No two of `config.iforwards` have the same service.
  SocketForwards(Loop& loop, ResolverDriver& resolver_driver, ForwardConfig config);
  ~SocketForwards();

  // A service that is built in, which outlives the channel. It stays when forwards change.
  void add_built_in(std::string_view name, Service& service);
  // For the channel: what its peer may ask for.
  const ServiceRegistry& services() const { return registry_; }
  // Accepts clients for `channel`. `listening` is bound, in the order of `oforwards`.
  void start(Channel& channel, std::vector<Listening> listening);
  // Makes `wanted` the forwards of the channel, after start(). A listener of the same service and
  // address goes on, with the other values that it has now; `listening` has no socket for it. Streams
  // of forwards that are gone go on.
  void change(ForwardConfig wanted, std::vector<Listening> listening);
  // No more clients; the addresses are free.
  void stop_listening();
  // Waits for no application that has yet to close its end.
  void end_lingering() { closer_.end_lingering(); }
  // Every socket of a client or service is closed.
  bool drained() const { return closer_.idle(); }
  // Nothing here is known to the kernel any more.
  bool idle() const;

 private:
  class SocketService;
  class SocketOpener;

  // A peer of protocol 1 that has sent nothing may be there: only clients can find out.
  void session_up(const SessionUp&) override { set_up(true); }
  void session_silent(const SessionSilent& event) override {
    if (event.silence == Silence::kSentNothing) set_up(true);
  }
  void session_down(const SessionDown&) override { set_up(false); }

  void add_service(const ForwardSpec& forward);
  void set_up(bool up);

  Loop& loop_;
  SocketCloser closer_;
  ConnectionContext context_;
  ServiceRegistry registry_;
  std::vector<std::pair<std::string, Service*>> built_in_;
  std::vector<std::unique_ptr<SocketService>> services_;
  std::vector<std::unique_ptr<SocketOpener>> openers_;
  std::vector<std::unique_ptr<SocketOpener>> retired_;  // which still have clients
  Channel* channel_ = nullptr;
  bool up_ = false;  // the channel
};

}  // namespace virtproxy
