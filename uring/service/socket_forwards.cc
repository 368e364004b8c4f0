#include "uring/service/socket_forwards.h"

#include <algorithm>
#include <utility>

#include "core/assert.h"
#include "uring/mux/channel.h"
#include "uring/net/peer_identity.h"

namespace virtproxy {

class SocketForwards::SocketService final : public Service {
 public:
  SocketService(SocketForwards& forwards, const ForwardSpec& forward)
      : forwards_(forwards), forward_(forward) {}

  tl::expected<std::unique_ptr<Endpoint>, Fault> open(StreamHandle& stream,
                                                      std::span<const std::byte>) override {
    return std::make_unique<Connection>(forwards_.context_, stream, forward_);
  }
  const Address* address() const override { return &forward_.address; }

 private:
  SocketForwards& forwards_;
  const ForwardSpec& forward_;
};

// A client is named by its descriptor, which belongs to this while the client waits.
class SocketForwards::SocketOpener final : public Opener, private Listener::Client {
 public:
  SocketOpener(SocketForwards& forwards, const ForwardSpec& forward)
      : forwards_(forwards), forward_(forward) {}

  void start(Channel& channel, Listening listening) {
    channel_ = &channel;
    bound_ = std::move(listening.path);
    Listener::Client* const client = this;
    for (const int fd : listening.sockets) {
      listeners_.push_back(std::make_unique<Listener>(forwards_.loop_, forward_, fd, client));
    }
    channel.observers().notify(&ChannelObserver::listening, forward_);
  }
  void remove_path() { bound_.remove(); }
  void stop() {
    for (const auto& listener : listeners_) listener->stop();
  }
  bool idle() const {
    return std::all_of(listeners_.begin(), listeners_.end(),
                       [](const auto& listener) { return listener->idle(); });
  }

  std::string_view service() const override { return forward_.service; }
  Priority priority() const override { return forward_.priority; }
  size_t describe(int client, std::span<std::byte> metadata) override {
    return encode_peer_identity(peer_identity_of(client), metadata.data());
  }
  std::unique_ptr<Endpoint> open(int client, StreamHandle& stream) override {
    return std::make_unique<Connection>(forwards_.context_, stream, client, forward_.address.kind);
  }
  const Address* address() const override { return &forward_.address; }
  int fd_of(int client) const override { return client; }
  void refuse(int client) override { forwards_.closer_.close_with_reset(client); }

 private:
  // Who may not connect is turned away before it can take the place of another in the queue.
  void accepted(int fd, const ForwardSpec&) override {
    if (forward_.clients.admits(fd, peer_identity_of(fd))) {
      return channel_->admit(*this, fd);
    }
    channel_->observers().notify(&ChannelObserver::client_refused,
                                 {forward_.service, RefusalReason::kNotAllowed, fd});
    refuse(fd);
  }

  SocketForwards& forwards_;
  const ForwardSpec& forward_;
  Channel* channel_ = nullptr;
  BoundPath bound_;
  std::vector<std::unique_ptr<Listener>> listeners_;
};

SocketForwards::SocketForwards(Loop& loop, ResolverDriver& resolver_driver, ForwardConfig config)
    : config_(std::move(config)),
      loop_(loop),
      closer_(loop),
      context_{resolver_driver, closer_, config_.connect_timeout} {
  for (const ForwardSpec& forward : config_.iforwards) {
    services_.push_back(std::make_unique<SocketService>(*this, forward));
    const bool fresh = registry_.add(forward.service, *services_.back());
    VP_ASSERT(fresh);
  }
  for (const ForwardSpec& forward : config_.oforwards) {
    openers_.push_back(std::make_unique<SocketOpener>(*this, forward));
  }
}

SocketForwards::~SocketForwards() { VP_ASSERT(idle()); }

void SocketForwards::start(Channel& channel, std::vector<Listening> listening) {
  VP_ASSERT(listening.size() == openers_.size());
  for (const ForwardSpec& forward : config_.oforwards) {
    channel.counters().add_forward(forward, StreamRole::kOpener);
  }
  for (const ForwardSpec& forward : config_.iforwards) {
    channel.counters().add_forward(forward, StreamRole::kAcceptor);
  }
  for (size_t i = 0; i < openers_.size(); ++i) openers_[i]->start(channel, std::move(listening[i]));
}

void SocketForwards::stop_listening() {
  for (const auto& opener : openers_) opener->remove_path();
  for (const auto& opener : openers_) opener->stop();
}

bool SocketForwards::idle() const {
  return drained() && std::all_of(openers_.begin(), openers_.end(),
                                  [](const auto& opener) { return opener->idle(); });
}

}  // namespace virtproxy
