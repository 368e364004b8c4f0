// What an agent talks over, as the command line names it, and how it is opened.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "uring/base/unique_fd.h"

namespace virtproxy::agent {

struct PortSpec {
  enum class Method {
    kVirtioSerial,
    kIsaSerial,
    kUnixListen,
    kUnixConnect,
    kStream,  // a path alone: a socket where each call has a connection of its own
  };
  Method method = Method::kStream;
  std::string path;
  uint32_t baud = 115200;  // of kIsaSerial

  bool is_device() const { return method == Method::kVirtioSerial || method == Method::kIsaSerial; }
  std::string to_string() const;
};

// METHOD:PATH, METHOD:PATH:- or isa-serial:PATH:BAUD. The method `serial` is isa-serial.
tl::expected<PortSpec, std::string> parse_port(std::string_view text);
// The same, or a path alone.
tl::expected<PortSpec, std::string> parse_target(std::string_view text);

// Why what is at the path of a device can never be one. Nothing for a path that is not there yet.
std::optional<std::string> port_fault(const PortSpec& port);

// A non-blocking descriptor: an opened device, made raw if it is a tty, or a connected socket.
tl::expected<UniqueFd, std::string> open_port(const PortSpec& port);

// Whether an opened device can go on being used.
enum class PortState {
  kOpen,
  kNoPeer,  // no program on the host has opened the other end: the descriptor stays good
  kGone,    // it was unplugged or has hung up: only a new descriptor can be good
};
PortState port_state(const PortSpec& device, int fd);

// A non-blocking listener with mode 0600, unless `mode` is another. A socket without a listener
// that is at the path is removed first.
tl::expected<UniqueFd, std::string> listen_unix(const std::string& path, unsigned mode = 0600);

}  // namespace virtproxy::agent
