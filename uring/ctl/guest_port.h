// The channel between a virtual machine and its host, as virtproxyctl describes it to QEMU and
// libvirt.
#pragma once

#include <cstdint>
#include <string>
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

  // The id of its parts in QEMU.
  std::string id() const { return "vp-" + name; }
};

// The default of GuestPort::socket, where the units look for it.
std::string default_socket(const std::string& vm);

// An error if a value could not be taken by QEMU, libvirt or a shell without quoting.
tl::expected<void, std::string> check(const GuestPort& port);

// Arguments of qemu-system-*, on one line and safe to be split by a shell at its spaces.
std::string qemu_args(const GuestPort& port);

// One device element of libvirt's domain XML, several lines.
std::string libvirt_xml(const GuestPort& port);

}  // namespace virtproxy::ctl
