#include "uring/sockets.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace virtproxy {
namespace {

constexpr int kBacklog = 4096;

std::string failure(const Endpoint& endpoint, const char* what, const char* advice) {
  return std::string("cannot ") + what + " " + endpoint.to_string() + ": " + std::strerror(errno) +
         advice;
}

const char* advice_for(int error) {
  switch (error) {
    case EADDRINUSE:
      return " (another process listens there)";
    case EACCES:
      return " (ports below 1024 and other users' directories need privileges)";
    case ENOENT:
      return " (the directory must exist)";
    case EADDRNOTAVAIL:
      return " (that address is not one of this machine's)";
    default:
      return "";
  }
}

// True when the path may be bound: it is free, or was left behind by a process that is gone.
bool clear_stale_path(const Endpoint& endpoint, const SocketAddress& address) {
  if (endpoint.host.starts_with('@')) return true;
  struct stat status {};
  if (lstat(endpoint.host.c_str(), &status) != 0) return true;
  if (!S_ISSOCK(status.st_mode)) {
    errno = EEXIST;
    return false;
  }
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (probe < 0) return false;
  const bool refused =
      connect(probe, address.data(), address.length) != 0 && errno == ECONNREFUSED;
  close(probe);
  if (!refused) {
    errno = EADDRINUSE;
    return false;
  }
  return unlink(endpoint.host.c_str()) == 0;
}

void set_option(int fd, int level, int option, int value) {
  // Options are improvements: a socket that lacks one still works.
  (void)setsockopt(fd, level, option, &value, sizeof value);
}

}  // namespace

tl::expected<int, std::string> listen_on(const Endpoint& endpoint) {
  SocketAddress address;
  if (endpoint.is_wildcard()) {
    address = any_address(AF_INET6, static_cast<uint16_t>(endpoint.port));
  } else if (auto parsed = to_socket_address(endpoint)) {
    address = *parsed;
  } else {
    return tl::unexpected(parsed.error());
  }
  if (address.family() == AF_UNIX && !clear_stale_path(endpoint, address)) {
    return tl::unexpected(failure(endpoint, "listen on", advice_for(errno)));
  }
  int fd = socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 && errno == EAFNOSUPPORT && endpoint.is_wildcard()) {
    address = any_address(AF_INET, static_cast<uint16_t>(endpoint.port));
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  }
  if (fd < 0) return tl::unexpected(failure(endpoint, "listen on", advice_for(errno)));
  set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (address.family() == AF_INET6) {
    set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, endpoint.is_wildcard() ? 0 : 1);
  }
  if (bind(fd, address.data(), address.length) != 0 || listen(fd, kBacklog) != 0) {
    auto error = tl::unexpected(failure(endpoint, "listen on", advice_for(errno)));
    close(fd);
    return error;
  }
  return fd;
}

void unlink_path(const Endpoint& endpoint) {
  if (endpoint.kind == Endpoint::Kind::kUnix && !endpoint.host.starts_with('@')) {
    unlink(endpoint.host.c_str());
  }
}

void prepare_connection(int fd, int family) {
  if (family != AF_INET && family != AF_INET6) return;
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

void close_with_reset(int fd) {
  const linger now{1, 0};
  (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close(fd);
}

}  // namespace virtproxy
