// One channel between the host's daemon and a guest's: what it runs over, the services reachable
// through it, and what can happen to it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tests/sim/application.h"
#include "tests/sim/daemon.h"
#include "tests/sim/device.h"

namespace virtproxy::sim {

enum class LinkKind : uint8_t {
  kUnix,
  kTcp,
  kPort,    // an emulator's socket on the host, a virtio port in the guest
  kSerial,  // the same with a serial port
  kCable,   // a tty on either side
};
inline constexpr size_t kLinkKinds = 5;

// A link that carries fewer bytes a second is slow.
inline constexpr double kFast = 50e6;

// A listening service whose applications follow plans drawn by the scenario.
class Service final : private File::Waiter {
 public:
  using DrawPlan = std::function<Plan()>;
  Service(Network& network, Exchange& exchange, const Route& route, const Path& path,
          DrawPlan draw_plan);
  ~Service();

 private:
  void file_changed() override;
  void accept();

  Exchange& exchange_;
  const Route& route_;
  DrawPlan draw_plan_;
  std::shared_ptr<Socket> listener_;
  bool scheduled_ = false;
};

class SimulatedLink {
 public:
  SimulatedLink(Network& network, unsigned id, LinkKind kind);

  unsigned id() const { return id_; }
  LinkKind kind() const { return kind_; }
  const ChannelSpec& host_spec() const { return host_spec_; }
  const ChannelSpec& guest_spec() const { return guest_spec_; }
  // Bytes a second; 0 where the link is as fast as the daemons.
  double speed() const { return speed_; }
  // Bytes that may be on their way.
  size_t depth() const { return depth_; }
  // Whether an end that is lost, or bytes that are, can go unnoticed.
  bool hides() const { return kind_ >= LinkKind::kPort; }

  // A mishap of the channel; `guest` is the guest's daemon if it runs.
  void cut(Daemon* guest, bool torn);
  void stall(Daemon* guest, Duration time);

 private:
  const unsigned id_;
  const LinkKind kind_;
  double speed_ = 0;
  size_t depth_ = 0;
  ChannelSpec host_spec_;
  ChannelSpec guest_spec_;
  std::unique_ptr<Device> host_device_;
  std::unique_ptr<Device> guest_device_;
  std::unique_ptr<Emulator> emulator_;
  std::unique_ptr<Cable> cable_;
};

Address to_unix_address(const std::string& path);
Address to_tcp_address(uint16_t port);

}  // namespace virtproxy::sim
