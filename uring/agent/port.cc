#include "uring/agent/port.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

#include "uring/base/text.h"
#include "uring/net/baud.h"
#include "uring/transport/device_check.h"

namespace virtproxy::agent {
namespace {

struct MethodName {
  std::string_view name;
  PortSpec::Method method;
};
constexpr MethodName kMethods[] = {
    {"virtio-serial", PortSpec::Method::kVirtioSerial},
    {"isa-serial", PortSpec::Method::kIsaSerial},
    {"unix-listen", PortSpec::Method::kUnixListen},
    {"unix-connect", PortSpec::Method::kUnixConnect},
};

tl::unexpected<std::string> failed(const std::string& what) {
  return tl::unexpected(what + ": " + std::strerror(errno));
}

bool fill_address(const std::string& path, sockaddr_un& address) {
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    return false;
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return true;
}

bool make_raw(int fd, uint32_t baud) {
  termios line{};
  if (tcgetattr(fd, &line) != 0) return false;
  cfmakeraw(&line);
  line.c_cflag |= CLOCAL | CREAD;
  line.c_cc[VMIN] = 1;
  line.c_cc[VTIME] = 0;
  const auto speed = termios_speed(baud);
  if (!speed) {
    errno = EINVAL;
    return false;
  }
  cfsetispeed(&line, *speed);
  cfsetospeed(&line, *speed);
  return tcsetattr(fd, TCSANOW, &line) == 0;
}

}  // namespace

std::string PortSpec::to_string() const {
  for (const MethodName& each : kMethods) {
    if (each.method == method) return std::string(each.name) + ":" + path;
  }
  return path;
}

tl::expected<PortSpec, std::string> parse_port(std::string_view text) {
  const std::string whole(text);
  const size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  PortSpec port;
  bool known = false;
  for (const MethodName& each : kMethods) {
    if (each.name != name) continue;
    port.method = each.method;
    known = true;
  }
  if (!known || colon == std::string_view::npos) {
    return tl::unexpected(whole +
                          ": a port is METHOD:PATH, with the method virtio-serial, isa-serial, "
                          "unix-listen or unix-connect");
  }
  std::string_view rest = text.substr(colon + 1);
  const size_t last = rest.rfind(':');
  if (last != std::string_view::npos) {
    const std::string_view tail = rest.substr(last + 1);
    if (tail == "-") {
      rest.remove_suffix(2);
    } else if (port.method == PortSpec::Method::kIsaSerial) {
      const auto [end, error] = std::from_chars(tail.begin(), tail.end(), port.baud);
      if (error != std::errc() || end != tail.end() || !termios_speed(port.baud)) {
        return tl::unexpected(whole + ": " + std::string(tail) +
                              " is no speed of a serial line; 115200 is one");
      }
      rest = rest.substr(0, last);
    }
  }
  port.path = std::string(rest);
  if (port.path.empty()) return tl::unexpected(whole + ": the path is missing");
  return port;
}

tl::expected<PortSpec, std::string> parse_target(std::string_view text) {
  if (const size_t slash = text.find('/'); slash != text.npos && slash < text.find(':')) {
    PortSpec port;
    port.path = std::string(text);
    return port;
  }
  auto port = parse_port(text);
  if (!port) return tl::unexpected(port.error() + "; or the path of a socket, with a / in it");
  return port;
}

std::optional<std::string> port_fault(const PortSpec& port) {
  struct stat status {};
  if (!port.is_device() || stat(port.path.c_str(), &status) != 0) return std::nullopt;
  const auto fault = device_fault(status);
  if (!fault) return std::nullopt;
  return port.to_string() + ": " + port.path + " " + *fault;
}

tl::expected<UniqueFd, std::string> open_port(const PortSpec& port) {
  const std::string what = "cannot open " + port.to_string();
  if (port.is_device()) {
    UniqueFd fd(open(port.path.c_str(), O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (!fd) return failed(what);
    struct stat status {};
    if (fstat(fd.get(), &status) != 0) return failed(what);
    if (const auto fault = device_fault(status)) {
      return tl::unexpected(what + ": " + port.path + " " + *fault);
    }
    if (port.method == PortSpec::Method::kIsaSerial && !make_raw(fd.get(), port.baud)) {
      return failed("cannot make " + port.path + " raw");
    }
    return fd;
  }
  sockaddr_un address{};
  if (!fill_address(port.path, address)) return failed(what);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd || connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return tl::unexpected(what + ": " + connect_fault(port.path, errno));
  }
  return fd;
}

PortState port_state(const PortSpec& device, int fd) {
  pollfd look{fd, POLLIN, 0};
  if (poll(&look, 1, 0) < 0 || (look.revents & (POLLHUP | POLLERR | POLLNVAL)) == 0) {
    return PortState::kOpen;
  }
  // A tty that has hung up stays so. Only a virtio port also reports POLLHUP for an end that may
  // still be opened.
  if (device.method != PortSpec::Method::kVirtioSerial || (look.revents & POLLHUP) == 0 ||
      (look.revents & (POLLERR | POLLNVAL)) != 0) {
    return PortState::kGone;
  }
  // poll(2) reports no more than that for a virtio port that was unplugged, but a read fails with
  // ENODEV. One of no bytes takes nothing of a host that opens its end at this moment.
  char none = 0;
  if (read(fd, &none, 0) < 0 && errno != EAGAIN && errno != EINTR) return PortState::kGone;
  return PortState::kNoPeer;
}

tl::expected<UniqueFd, std::string> listen_unix(const std::string& path, unsigned mode) {
  const std::string what = "cannot listen at " + path;
  const auto refuse = [&] { return tl::unexpected(what + ": " + creation_fault(path, errno)); };
  sockaddr_un address{};
  if (!fill_address(path, address)) return refuse();
  const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
  struct stat status {};
  if (lstat(path.c_str(), &status) == 0) {
    if (!S_ISSOCK(status.st_mode)) return tl::unexpected(what + ": something else is there");
    const UniqueFd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (connect(probe.get(), generic, sizeof address) == 0 || errno != ECONNREFUSED) {
      return tl::unexpected(what + ": another process listens there");
    }
    if (unlink(path.c_str()) != 0) return refuse();
  }
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return refuse();
  const mode_t before = umask(~static_cast<mode_t>(mode) & 0777);
  const bool bound = bind(fd.get(), generic, sizeof address) == 0;
  const int error = errno;
  umask(before);
  errno = error;
  if (!bound || listen(fd.get(), 128) != 0) return refuse();
  return fd;
}

}  // namespace virtproxy::agent
