#include "address.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>

#include "uring/base/units.h"

namespace virtproxy::bench {
namespace {

[[noreturn]] void reject(std::string_view text, std::string_view why, std::string_view use) {
  throw Failure(Outcome::kUsage, fmt::format("bad address '{}': {} (use {})", text, why, use));
}

// "unix-dgram:" of "unix-dgram:/path".
std::string_view kind_of(std::string_view text) { return text.substr(0, text.find(':') + 1); }

}  // namespace

Address parse_unix_address(std::string_view text) {
  const std::string_view kind = kind_of(text);
  const std::string_view name = text.substr(kind.size());
  const auto refuse = [&](std::string_view why) {
    reject(text, why, fmt::format("{0}/path or {0}@name", kind));
  };
  Address address{std::string(text)};
  auto& un = reinterpret_cast<sockaddr_un&>(address.storage);
  const bool abstract = !name.empty() && name.front() == '@';
  if (name.size() <= (abstract ? 1 : 0)) refuse("the name is empty");
  const size_t room = sizeof(un.sun_path) - (abstract ? 0 : 1);
  if (name.size() > room) refuse(fmt::format("the name exceeds {} bytes", room));
  un.sun_family = AF_UNIX;
  std::memcpy(un.sun_path, name.data(), name.size());
  if (abstract) un.sun_path[0] = '\0';
  const size_t length = offsetof(sockaddr_un, sun_path) + name.size() + (abstract ? 0 : 1);
  address.length = static_cast<socklen_t>(length);
  return address;
}

Address parse_inet_address(std::string_view text) {
  const std::string_view kind = kind_of(text);
  const std::string_view rest = text.substr(kind.size());
  const auto refuse = [&](std::string_view why) {
    reject(text, why, fmt::format("{0}host:port or {0}[ipv6]:port", kind));
  };
  std::string_view host;
  std::string_view port;
  if (!rest.empty() && rest.front() == '[') {
    const size_t end = rest.find(']');
    if (end == std::string_view::npos) refuse("']' is missing");
    host = rest.substr(1, end - 1);
    if (end + 1 >= rest.size() || rest[end + 1] != ':') refuse("the port is missing");
    port = rest.substr(end + 2);
  } else {
    const size_t colon = rest.rfind(':');
    if (colon == std::string_view::npos) refuse("the port is missing");
    host = rest.substr(0, colon);
    port = rest.substr(colon + 1);
    if (host.find(':') != std::string_view::npos) refuse("an IPv6 address needs brackets");
  }
  if (host.empty()) refuse("the host is empty");
  if (parse_number<uint16_t>(port).value_or(0) == 0) refuse("the port must be 1 to 65535");
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int status =
      ::getaddrinfo(std::string(host).c_str(), std::string(port).c_str(), &hints, &found);
  if (status != 0) refuse(::gai_strerror(status));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  Address address{std::string(text)};
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  address.length = found->ai_addrlen;
  return address;
}

namespace {

bool set_int(int fd, int level, int name, int value) {
  return ::setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

// A socket file outlives its listener; whoever refuses a connection is gone.
void remove_stale_file(const Address& address) {
  const UniqueFd probe = open_socket(address, {});
  if (::connect(probe.get(), address.data(), address.length) != 0 && errno == ECONNREFUSED) {
    ::unlink(address.file().c_str());
  }
}

}  // namespace

std::string Address::file() const {
  if (!is_unix()) return {};
  const auto& un = reinterpret_cast<const sockaddr_un&>(storage);
  return un.sun_path[0] == '\0' ? std::string() : std::string(un.sun_path);
}

Address parse_address(std::string_view text) {
  if (text.starts_with("unix:")) return parse_unix_address(text);
  if (text.starts_with("tcp:")) return parse_inet_address(text);
  reject(text, "the kind is missing", "unix:/path, unix:@name, tcp:host:port or tcp:[ipv6]:port");
}

void apply_options(int fd, bool is_unix, const SocketOptions& options) {
  if (!is_unix) set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  if (options.send_buffer > 0) set_int(fd, SOL_SOCKET, SO_SNDBUF, options.send_buffer);
  if (options.receive_buffer > 0) set_int(fd, SOL_SOCKET, SO_RCVBUF, options.receive_buffer);
}

UniqueFd open_socket(const Address& address, const SocketOptions& options) {
  UniqueFd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd.valid()) apply_options(fd.get(), address.is_unix(), options);
  return fd;
}

UniqueFd open_listener(const Address& address, const SocketOptions& options) {
  UniqueFd fd = open_socket(address, options);
  if (fd.valid()) {
    if (!address.file().empty()) remove_stale_file(address);
    if (!address.is_unix()) set_int(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    if (::bind(fd.get(), address.data(), address.length) == 0 && ::listen(fd.get(), 4096) == 0) {
      return fd;
    }
  }
  throw Failure(Outcome::kUsage,
                fmt::format("cannot listen on {}: {}", address.text, std::strerror(errno)));
}

}  // namespace virtproxy::bench
