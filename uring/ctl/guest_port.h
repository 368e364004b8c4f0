// The channel between a virtual machine and its host, as virtproxyctl describes it to QEMU and
// libvirt.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace virtproxy::ctl {

// What the guest has: a virtio-serial port, a serial port, or vsock.
enum class GuestDevice { kVirtioPort, kIsaPort, kVsock };

struct GuestPort {
  std::string vm;
  GuestDevice device = GuestDevice::kVirtioPort;
  std::string socket;              // of QEMU's chardev; not for vsock
  std::string name = "virtproxy";  // of a virtio-serial port, as the guest sees it
  std::string bus;                 // an existing virtio-serial bus; empty for a new controller
  uint32_t cid = 0;                // of vsock
  // Adds a port of the same kind for virtagent, which finds it in the guest by its name.
  bool agent = false;
  std::string agent_socket;  // of its chardev

  // The id of its parts in QEMU.
  std::string id() const { return "vp-" + name; }
};

// The name by which virtagent finds its port.
inline constexpr std::string_view kAgentPort = "org.qemu.virtagent";

// The default of GuestPort::socket, where the units look for it, and of GuestPort::agent_socket.
std::string default_socket(const std::string& vm);
std::string default_agent_socket(const std::string& vm);

// An error if a value could not be taken by QEMU, libvirt or a shell without quoting.
tl::expected<void, std::string> check(const GuestPort& port);

// Arguments of qemu-system-*, on one line and safe to be split by a shell at its spaces.
std::string qemu_args(const GuestPort& port);

// The device elements of libvirt's domain XML, several lines.
std::string libvirt_xml(const GuestPort& port);

}  // namespace virtproxy::ctl
