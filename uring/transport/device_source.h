// A channel over a character device: a virtio-serial port, or a tty in raw mode.
#pragma once

#include <optional>
#include <string>

#include "uring/transport/transport_source.h"

namespace virtproxy {

class DeviceSource final : public TransportSource {
 public:
  explicit DeviceSource(const TransportSetup& setup) : TransportSource(setup) {}
  ~DeviceSource() override { stop(); }

 private:
  void acquire() override;
};

// What is wrong with the address of a virtio-serial port.
std::optional<std::string> port_fault(const Address& address);

}  // namespace virtproxy
