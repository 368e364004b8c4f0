#include "tests/sim/link.h"

#include <fmt/format.h>

#include "uring/transport/transport_kind.h"

namespace virtproxy::sim {

Address to_unix_address(const std::string& path) { return {Address::Kind::kUnix, path, 0}; }
Address to_tcp_address(uint16_t port) { return {Address::Kind::kTcp, "127.0.0.1", port}; }

Service::Service(Network& network, Exchange& exchange, const Route& route, const Path& path,
                 DrawPlan draw_plan)
    : exchange_(exchange),
      route_(route),
      draw_plan_(std::move(draw_plan)),
      listener_(std::make_shared<Socket>(
          route.service_end.kind == Address::Kind::kUnix ? Family::kUnix : Family::kTcp)) {
  listener_->listen(World::current().random().between(2, 16));
  listener_->add_waiter(this);
  network.bind(network_name(route.service_end), listener_);
  network.set_path(network_name(route.service_end), path);
}

Service::~Service() { listener_->remove_waiter(this); }

void Service::file_changed() {
  if (scheduled_) return;
  World& world = World::current();
  if (world.happens(Mishap::kHastyService)) return accept();
  scheduled_ = true;
  // Services live as long as their world.
  world.after(world.random().duration(microseconds(5), milliseconds(2)), [this] {
    scheduled_ = false;
    accept();
  });
}

void Service::accept() {
  World& world = World::current();
  const auto socket = listener_->accept();
  if (!socket) return;
  Application& application =
      exchange_.add(Application::Role::kService, route_, socket, draw_plan_());
  if (world.happens(Mishap::kHastyService)) application.act_now();
  file_changed();
}

SimulatedLink::SimulatedLink(Network& network, unsigned id, LinkKind kind) : id_(id), kind_(kind) {
  Random& random = World::current().random();
  World::current().channel(id).set_hides(hides());
  host_spec_.id = guest_spec_.id = id;
  host_spec_.name = guest_spec_.name = std::to_string(id);
  const auto device = [&](const char* side, Device::Kind of) {
    const auto capacity = static_cast<size_t>(random.magnitude(8192, 1 << 20));
    auto made =
        std::make_unique<Device>(id, fmt::format("/sim/channel{}-{}", id, side), of, capacity);
    network.add_device(made.get());
    depth_ += capacity;
    return made;
  };
  const auto to_device = [](ChannelSpec& spec, const Device& at) {
    spec.transport =
        find_transport(at.kind() == Device::Kind::kTty ? "isa-serial" : "virtio-serial");
    spec.address = {Address::Kind::kDevice, at.path(), 0};
  };
  const std::string name = fmt::format("/sim/channel{}", id);
  Path path;
  path.channel = id;
  depth_ = path.capacity = static_cast<size_t>(random.magnitude(4096, 1 << 20));
  if (kind == LinkKind::kUnix || kind == LinkKind::kTcp) {
    const bool tcp = kind == LinkKind::kTcp;
    const bool host_listens = random.chance(0.5);
    ChannelSpec& listener = host_listens ? host_spec_ : guest_spec_;
    ChannelSpec& dialer = host_listens ? guest_spec_ : host_spec_;
    listener.transport = find_transport(tcp ? "tcp-listen" : "unix-listen");
    dialer.transport = find_transport(tcp ? "tcp-connect" : "unix-connect");
    listener.address = dialer.address =
        tcp ? to_tcp_address(static_cast<uint16_t>(7000 + id)) : to_unix_address(name);
    if (tcp) {
      path.latency = Duration(static_cast<Duration::rep>(random.magnitude(10'000, 30'000'000)));
      if (random.chance(0.3)) {
        path.bytes_per_nanosecond = static_cast<double>(random.magnitude(1, 1000)) / 1000.0;
        speed_ = path.bytes_per_nanosecond * 1e9;
      }
      // What is under way is bounded, too.
      const double by_latency =
          static_cast<double>(path.capacity) / (static_cast<double>(path.latency.count()) * 1e-9);
      if (by_latency < kFast && (speed_ == 0 || by_latency < speed_)) speed_ = by_latency;
    }
    network.set_path(network_name(listener.address), path);
    return;
  }
  if (kind == LinkKind::kCable) {
    speed_ = static_cast<double>(random.magnitude(50'000, 4'000'000));
    host_device_ = device("host", Device::Kind::kTty);
    guest_device_ = device("guest", Device::Kind::kTty);
    to_device(host_spec_, *host_device_);
    to_device(guest_spec_, *guest_device_);
    cable_ = std::make_unique<Cable>(*host_device_, *guest_device_, speed_);
    return;
  }
  guest_device_ =
      device("guest", kind == LinkKind::kPort ? Device::Kind::kPort : Device::Kind::kTty);
  to_device(guest_spec_, *guest_device_);
  host_spec_.transport = find_transport("unix-connect");
  host_spec_.address = to_unix_address(name);
  network.set_path(name, path);
  emulator_ = std::make_unique<Emulator>(network, *guest_device_, name);
}

void SimulatedLink::cut(Daemon* guest, bool torn) {
  World& world = World::current();
  world.trace("cut", id_, torn);
  if (emulator_) {
    if (!emulator_->has_client()) return;
    world.channel(id_).disturb(world.now());
    world.count(Mishap::kHostLeaves, id_);
    emulator_->drop_client();
    return;
  }
  if (cable_) return cable_->lose();
  const auto socket = guest == nullptr ? nullptr : guest->channel_socket();
  if (!socket) return;
  world.channel(id_).disturb(world.now());
  world.count(torn ? Mishap::kChannelTorn : Mishap::kChannelCut, id_);
  socket->cut(torn);
}

void SimulatedLink::stall(Daemon* guest, Duration time) {
  World& world = World::current();
  const Instant until = world.now() + time;
  world.trace("stall", id_, time.count());
  world.count(Mishap::kChannelStalls, id_);
  world.channel(id_).hinder(until);
  if (emulator_) return emulator_->pause(until);
  if (cable_) return cable_->pause(until);
  if (const auto socket = guest == nullptr ? nullptr : guest->channel_socket()) {
    socket->freeze(until);
  }
}

}  // namespace virtproxy::sim
