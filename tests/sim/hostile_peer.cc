#include "tests/sim/hostile_peer.h"

#include <array>

#include "core/protocol_selector.h"
#include "tests/sim/application.h"
#include "tests/sim/device.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy::sim {
namespace {

constexpr Duration kRetry = milliseconds(1);
constexpr Duration kReaction = microseconds(5);
// Around the end of the time in which the attacked end waits for a greeting.
constexpr Duration kAroundGrace = microseconds(120);
// In a device nothing tells what is on its way: so much is left there at most.
constexpr size_t kMostPending = 16 * 1024;

}  // namespace

HostilePeer::HostilePeer(Network& network, const ChannelSpec& spec, Target target,
                         std::function<void()> connected)
    : network_(network),
      spec_(spec),
      channel_(target.channel),
      name_(network_name(spec.address)),
      bytes_(std::move(target)),
      connected_(std::move(connected)) {
  World::current().trace("hostile", channel_);
  act_at(World::current().now());
}

HostilePeer::~HostilePeer() {
  detach();
  if (!listener_) return;
  listener_->remove_waiter(this);
  network_.unlink(name_);
}

void HostilePeer::file_changed() { act_at(World::current().now() + kReaction); }

void HostilePeer::act_at(Instant when) {
  if (scheduled_for_ <= when) return;
  scheduled_for_ = when;
  World::current().at(when, [this, when, alive = std::weak_ptr(alive_)] {
    if (alive.expired() || scheduled_for_ != when) return;
    scheduled_for_ = Instant::max();
    act();
  });
}

void HostilePeer::act() {
  World& world = World::current();
  if (!file_) {
    if (world.now() < returns_at_) return act_at(returns_at_);
    connect();
    if (!file_) return act_at(world.now() + kRetry);
  }
  read();
  if (!file_) return act_at(world.now() + kRetry);
  if (world.now() >= next_at_) {
    write();
  } else {
    act_at(next_at_);
  }
}

// --- the channel ------------------------------------------------------------------------------

void HostilePeer::connect() {
  if (transport_is_device(spec_.transport)) {
    int error = 0;
    Device* device = network_.device(spec_.address.host);
    FileRef file = device == nullptr ? nullptr : device->open(error);
    if (file) attach(std::move(file));
    return;
  }
  if (transport_listens(spec_.transport)) {
    if (!listener_) listen();
    if (auto socket = listener_->accept()) attach(std::move(socket));
    return;
  }
  const auto listener = network_.find(name_);
  if (!listener || !listener->listening() || listener->backlog_full()) return;
  auto socket = std::make_shared<Socket>(listener->family());
  socket->connect_to(listener, network_.path(name_));
  attach(std::move(socket));
}

void HostilePeer::listen() {
  const bool tcp = spec_.address.kind == Address::Kind::kTcp;
  listener_ = std::make_shared<Socket>(tcp ? Family::kTcp : Family::kUnix);
  listener_->carries_channel = channel_;
  listener_->listen(4);
  listener_->add_waiter(this);
  network_.bind(name_, listener_);
}

void HostilePeer::attach(FileRef file) {
  World& world = World::current();
  file_ = std::move(file);
  file_->carries_channel = channel_;
  file_->add_waiter(this);
  heard_.reset();
  leaves_ = false;
  deaf_ = world.random().chance(0.1);
  bytes_.on_connected();
  connected_();
  plan_next();
}

void HostilePeer::detach() {
  if (!file_) return;
  file_->remove_waiter(this);
  file_.reset();
  pending_ = {};
}

void HostilePeer::read() {
  if (deaf_) return;
  std::array<std::byte, 16384> bytes;
  for (;;) {
    const int64_t got = file_->read(bytes);
    if (got == -EAGAIN || got == -EINTR) return;
    if (got <= 0) {
      // A port without a host side is read again later.
      if (got < 0 || !transport_is_device(spec_.transport)) detach();
      return;
    }
    const bool first = !heard_;
    if (first) heard_ = World::current().now();
    bytes_.on_bytes(std::span(bytes).first(static_cast<size_t>(got)));
    if (first && pending_.size() == 0 && World::current().random().chance(0.6)) plan_next();
  }
}

// --- when -------------------------------------------------------------------------------------

void HostilePeer::plan_next() {
  World& world = World::current();
  Random& random = world.random();
  const Instant now = world.now();
  next_at_ = now + Duration(static_cast<Duration::rep>(random.magnitude(1000, 100'000'000)));
  if (random.chance(0.2)) next_at_ = now;
  if (!heard_ || !random.chance(0.5)) return act_at(next_at_);
  // The attacked end began to wait when it greeted, and both ways take time.
  const Duration way =
      transport_is_device(spec_.transport) ? Duration{} : network_.path(name_).latency;
  const Instant grace_ends = *heard_ + kGrace - 2 * way;
  const Instant aimed = grace_ends + random.duration({}, 2 * kAroundGrace) - kAroundGrace;
  if (aimed > now) {
    world.count(Mishap::kGraceEnds, channel_);
    next_at_ = aimed;
  }
  act_at(next_at_);
}

void HostilePeer::write() {
  World& world = World::current();
  Random& random = world.random();
  if (transport_is_device(spec_.transport) &&
      Device::of(file_)->from_daemon().size() > kMostPending) {
    next_at_ = world.now() + kRetry;
    return act_at(next_at_);
  }
  const bool may_leave = !transport_is_device(spec_.transport);
  if (pending_.size() == 0) {
    // Or without a word: what it wrote before is all there is.
    if (may_leave && random.chance(0.1)) return leave();
    pending_.append(bytes_.segment());
    leaves_ = may_leave && random.chance(0.15);
  }
  while (pending_.size() > 0) {
    const int64_t put = file_->write(pending_.contents());
    if (put == -EINTR) continue;
    if (put == -EAGAIN) {
      next_at_ = world.now() + kRetry;
      return act_at(next_at_);
    }
    if (put < 0) {
      detach();
      return act_at(world.now() + kRetry);
    }
    pending_.consume(static_cast<size_t>(put));
  }
  if (!leaves_) return plan_next();
  leave();
}

void HostilePeer::leave() {
  World& world = World::current();
  const bool reset = world.random().chance(0.5);
  world.count(reset ? Mishap::kHostileResets : Mishap::kHostileCloses, channel_);
  if (auto socket = std::dynamic_pointer_cast<Socket>(file_); socket && reset) {
    socket->set_linger(true);
  }
  leave_for(world.random().duration(kRetry, milliseconds(100)));
}

void HostilePeer::leave_for(Duration time) {
  detach();
  returns_at_ = World::current().now() + time;
  act_at(returns_at_);
}

}  // namespace virtproxy::sim
