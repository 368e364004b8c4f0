#include "uring/service/socket_forwards.h"

#include <algorithm>
#include <cerrno>
#include <deque>
#include <utility>

#include "core/assert.h"
#include "uring/mux/channel.h"
#include "uring/net/peer_identity.h"

namespace virtproxy {

class SocketForwards::SocketService final : public Service {
 public:
  SocketService(SocketForwards& forwards, const ForwardSpec& forward)
      : forwards_(forwards), forward_(std::make_shared<const ForwardSpec>(forward)) {}

  tl::expected<std::unique_ptr<Endpoint>, Fault> open(StreamHandle& stream,
                                                      std::span<const std::byte>) override {
    return std::make_unique<Connection>(forwards_.context_, stream, forward_);
  }
  const Address* address() const override { return &forward_->address; }
  const ForwardSpec& forward() const { return *forward_; }

 private:
  SocketForwards& forwards_;
  const std::shared_ptr<const ForwardSpec> forward_;  // shared with connections, which outlive this
};

// A client is named by its descriptor, which belongs to this while the client waits.
class SocketForwards::SocketOpener final : public Opener,
                                            private Listener::Client,
                                            private Timer::Owner {
 public:
  SocketOpener(SocketForwards& forwards, ForwardSpec forward)
      : forwards_(forwards),
        forward_(std::move(forward)),
        hold_ends_(forwards.loop_.timers(), this),
        clients_(std::make_shared<size_t>(0)) {}

  void start(Channel& channel, Listening listening) {
    channel_ = &channel;
    bound_ = std::move(listening.path);
    Listener::Client* const client = this;
    for (const int fd : listening.sockets) {
      listeners_.push_back(std::make_unique<Listener>(forwards_.loop_, forward_, fd, client));
    }
    channel.observers().notify(&ChannelObserver::listening, forward_);
    follow_channel();
  }
  // Does what is to be done for clients now that the channel is up, or down, or the forward another.
  void follow_channel() {
    const bool refuses = !forwards_.up_ && forward_.when_down.kind == WhenDown::Kind::kClose &&
                         forward_.address.kind == Address::Kind::kTcp;
    for (const auto& listener : listeners_) refuses ? listener->pause() : listener->resume();
    // The time may be shorter than when they came. The order stays.
    const Instant latest = forwards_.loop_.now() + forward_.when_down.hold;
    for (Held& held : held_) held.until = std::min(held.until, latest);
    // Not now: the channel may be in the middle of its work.
    if (!held_.empty()) hold_ends_.set(forwards_.loop_.now());
  }
  const ForwardSpec& forward() const { return forward_; }
  // For a listener that is_same_listener() of this one.
  void change(const ForwardSpec& forward) {
    forward_ = forward;
    follow_channel();
  }
  void remove_path() { bound_.remove(); }
  void stop() {
    for (const auto& listener : listeners_) listener->stop();
    hold_ends_.clear();
    for (const Held& held : std::exchange(held_, {})) refuse(held.fd);
  }
  bool idle() const {
    return std::all_of(listeners_.begin(), listeners_.end(),
                       [](const auto& listener) { return listener->idle(); });
  }
  // True while a client may still be given back to it.
  bool has_clients() const { return *clients_ > 0; }

  std::string_view service() const override { return forward_.service; }
  Priority priority() const override { return forward_.priority; }
  size_t describe(int client, std::span<std::byte> metadata) override {
    return encode_peer_identity(peer_identity_of(client), metadata.data());
  }
  std::unique_ptr<Endpoint> open(int client, StreamHandle& stream) override {
    return std::make_unique<Connection>(forwards_.context_, stream, client, forward_.address.kind,
                                        clients_);
  }
  const Address* address() const override { return &forward_.address; }
  int fd_of(int client) const override { return client; }
  void refuse(int client) override {
    --*clients_;
    forwards_.closer_.close_with_reset(client);
  }

 private:
  // Who may not connect is turned away before it can take the place of another in the queue.
  void accepted(int fd, const ForwardSpec&) override {
    ++*clients_;
    if (!forward_.clients.admits(fd, peer_identity_of(fd))) {
      return turn_away(fd, RefusalReason::kNotAllowed);
    }
    if (!holds()) return channel_->admit(*this, fd);
    if (held_.size() == kMostHeld) return turn_away(fd, RefusalReason::kChannelDown);
    held_.push_back({fd, forwards_.loop_.now() + forward_.when_down.hold});
    if (!hold_ends_.armed()) hold_ends_.set(held_.front().until);
  }
  void turn_away(int fd, RefusalReason reason) {
    channel_->observers().notify(&ChannelObserver::client_refused, {forward_.service, reason, fd});
    refuse(fd);
  }
  bool holds() const { return !forwards_.up_ && forward_.when_down.kind == WhenDown::Kind::kHold; }
  // The oldest have waited long enough, or all of them.
  void expired(Timer&) override {
    if (!holds()) {
      for (const Held& held : std::exchange(held_, {})) channel_->admit(*this, held.fd);
    }
    while (!held_.empty() && held_.front().until <= forwards_.loop_.now()) {
      const int fd = held_.front().fd;
      held_.pop_front();
      turn_away(fd, RefusalReason::kChannelDown);
    }
    if (!held_.empty()) hold_ends_.set(held_.front().until);
  }

  static constexpr size_t kMostHeld = 1024;
  struct Held {
    int fd;
    Instant until;
  };

  static StallReason reason_of(int error) {
    return error == EMFILE || error == ENFILE ? StallReason::kDescriptors : StallReason::kMemory;
  }
  void accepting_stalled(int error, Instant since) override {
    channel_->observers().notify(&ChannelObserver::listener_stalled,
                                 {forward_.service, reason_of(error), since});
  }
  void accepting_resumed(int error, Instant since) override {
    channel_->observers().notify(
        &ChannelObserver::listener_resumed,
        {forward_.service, reason_of(error), since, forwards_.loop_.now() - since});
  }

  SocketForwards& forwards_;
  ForwardSpec forward_;
  Channel* channel_ = nullptr;
  BoundPath bound_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::deque<Held> held_;  // until the channel is up
  Timer hold_ends_;        // of the first of them
  // Clients that wait for a stream, and connections of those that have one.
  const std::shared_ptr<size_t> clients_;
};

SocketForwards::SocketForwards(Loop& loop, ResolverDriver& resolver_driver, ForwardConfig config)
    : loop_(loop),
      closer_(loop),
      context_{resolver_driver, closer_, config.connect_timeout} {
  for (const ForwardSpec& forward : config.iforwards) add_service(forward);
  for (ForwardSpec& forward : config.oforwards) {
    openers_.push_back(std::make_unique<SocketOpener>(*this, std::move(forward)));
  }
}

SocketForwards::~SocketForwards() { VP_ASSERT(idle()); }

// No forward has a reserved name.
void SocketForwards::add_built_in(std::string_view name, Service& service) {
  const bool fresh = registry_.add(std::string(name), service);
  VP_ASSERT(fresh);
  built_in_.emplace_back(name, &service);
}

void SocketForwards::start(Channel& channel, std::vector<Listening> listening) {
  VP_ASSERT(listening.size() == openers_.size());
  channel_ = &channel;
  channel.add_observer(*this);
  for (const auto& opener : openers_) {
    channel.counters().add_forward(opener->forward(), StreamRole::kOpener);
  }
  for (const auto& service : services_) {
    channel.counters().add_forward(service->forward(), StreamRole::kAcceptor);
  }
  for (size_t i = 0; i < openers_.size(); ++i) openers_[i]->start(channel, std::move(listening[i]));
}

void SocketForwards::change(ForwardConfig wanted, std::vector<Listening> listening) {
  VP_ASSERT(channel_ != nullptr && listening.size() == wanted.oforwards.size());
  context_.connect_timeout = wanted.connect_timeout;
  registry_.clear();
  for (const auto& [name, service] : built_in_) registry_.add(name, *service);
  services_.clear();
  for (const ForwardSpec& forward : wanted.iforwards) {
    add_service(forward);
    channel_->counters().add_forward(forward, StreamRole::kAcceptor);
  }
  std::erase_if(retired_, [](const auto& opener) { return opener->idle() && !opener->has_clients(); });
  std::vector<std::unique_ptr<SocketOpener>> before = std::move(openers_);
  openers_.clear();
  for (size_t i = 0; i < wanted.oforwards.size(); ++i) {
    const ForwardSpec& forward = wanted.oforwards[i];
    const auto same = std::find_if(before.begin(), before.end(), [&](const auto& opener) {
      return opener && opener->forward().is_same_listener(forward);
    });
    if (same != before.end()) {
      (*same)->change(forward);
      openers_.push_back(std::move(*same));
      continue;
    }
    channel_->counters().add_forward(forward, StreamRole::kOpener);
    openers_.push_back(std::make_unique<SocketOpener>(*this, forward));
    openers_.back()->start(*channel_, std::move(listening[i]));
  }
  for (auto& opener : before) {
    if (!opener) continue;
    opener->remove_path();
    opener->stop();
    retired_.push_back(std::move(opener));
  }
}

void SocketForwards::add_service(const ForwardSpec& forward) {
  services_.push_back(std::make_unique<SocketService>(*this, forward));
  const bool fresh = registry_.add(forward.service, *services_.back());
  VP_ASSERT(fresh);
}

void SocketForwards::set_up(bool up) {
  up_ = up;
  for (const auto& opener : openers_) opener->follow_channel();
}

void SocketForwards::stop_listening() {
  for (const auto& opener : openers_) opener->remove_path();
  for (const auto& opener : openers_) opener->stop();
}

bool SocketForwards::idle() const {
  const auto idle = [](const auto& opener) { return opener->idle(); };
  return drained() && std::all_of(openers_.begin(), openers_.end(), idle) &&
         std::all_of(retired_.begin(), retired_.end(), idle);
}

}  // namespace virtproxy
