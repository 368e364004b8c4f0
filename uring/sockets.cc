#include "uring/sockets.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "uring/resolver.h"

namespace virtproxy {
namespace {

constexpr int kBacklog = 4096;

// A daemon that was killed keeps its addresses until the kernel has torn down its ring, which takes
// some tens of milliseconds after the process is gone.
constexpr auto kAddressPatience = std::chrono::milliseconds(1500);
constexpr auto kAddressInterval = std::chrono::milliseconds(10);

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
  const bool refused = connect(probe, address.data(), address.length) != 0 && errno == ECONNREFUSED;
  close(probe);
  if (!refused) {
    errno = EADDRINUSE;
    return false;
  }
  return unlink(endpoint.host.c_str()) == 0;
}

// Looks a host name up and waits for the answer.
tl::expected<std::vector<SocketAddress>, std::string> look_up(const Endpoint& endpoint) {
  Resolver resolver;
  resolver.start(endpoint.host, static_cast<uint16_t>(endpoint.port));
  for (;;) {
    if (auto done = resolver.next()) return std::move(done->result);
    std::vector<Resolver::Watch> watches = resolver.watches();
    std::vector<pollfd> polls;
    for (const Resolver::Watch& watch : watches) {
      polls.push_back({watch.fd,
                       static_cast<short>((watch.read ? POLLIN : 0) | (watch.write ? POLLOUT : 0)),
                       0});
    }
    const auto limit = resolver.timeout().value_or(std::chrono::milliseconds(0));
    poll(polls.data(), polls.size(), static_cast<int>(limit.count()));
    for (size_t i = 0; i < polls.size(); ++i) {
      const int ready = polls[i].revents;
      if (ready != 0) {
        resolver.process(watches[i].key, (ready & ~POLLOUT) != 0, (ready & ~POLLIN) != 0);
      }
    }
    resolver.process_timeouts();
  }
}

void set_option(int fd, int level, int option, int value) {
  // Options are improvements: a socket that lacks one still works.
  (void)setsockopt(fd, level, option, &value, sizeof value);
}

}  // namespace

namespace {

tl::expected<int, std::string> try_to_listen_at(const Endpoint& endpoint,
                                                const SocketAddress& address) {
  if (address.family() == AF_UNIX && !clear_stale_path(endpoint, address)) {
    const int error = errno;
    auto message = tl::unexpected(failure(endpoint, "listen on", advice_for(error)));
    errno = error;
    return message;
  }
  const int fd = socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return tl::unexpected(failure(endpoint, "listen on", advice_for(errno)));
  set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (address.family() == AF_INET6) {
    set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, endpoint.is_wildcard() ? 0 : 1);
  }
  if (bind(fd, address.data(), address.length) != 0 || listen(fd, kBacklog) != 0) {
    const int error = errno;
    auto message = tl::unexpected(failure(endpoint, "listen on", advice_for(error)));
    close(fd);
    errno = error;
    return message;
  }
  return fd;
}

tl::expected<int, std::string> listen_at(const Endpoint& endpoint, const SocketAddress& address) {
  const auto give_up = std::chrono::steady_clock::now() + kAddressPatience;
  for (;;) {
    auto fd = try_to_listen_at(endpoint, address);
    if (fd || errno != EADDRINUSE || std::chrono::steady_clock::now() > give_up) return fd;
    std::this_thread::sleep_for(kAddressInterval);
  }
}

tl::expected<std::vector<SocketAddress>, std::string> addresses_of(const Endpoint& endpoint) {
  if (endpoint.is_wildcard()) {
    // One [::] socket takes IPv4 as well; the other one is for machines without IPv6.
    return std::vector{any_address(AF_INET6, static_cast<uint16_t>(endpoint.port)),
                       any_address(AF_INET, static_cast<uint16_t>(endpoint.port))};
  }
  if (endpoint.needs_resolver()) return look_up(endpoint);
  auto address = to_socket_address(endpoint);
  if (!address) return tl::unexpected(address.error());
  return std::vector{*address};
}

}  // namespace

tl::expected<std::vector<int>, std::string> listen_on(const Endpoint& endpoint) {
  const auto addresses = addresses_of(endpoint);
  if (!addresses) return tl::unexpected(addresses.error());
  std::vector<int> sockets;
  std::string first_error;
  for (const SocketAddress& address : *addresses) {
    if (const auto fd = listen_at(endpoint, address)) {
      sockets.push_back(*fd);
      if (endpoint.is_wildcard()) break;
    } else if (first_error.empty()) {
      first_error = fd.error();
    }
  }
  if (sockets.empty()) return tl::unexpected(first_error);
  return sockets;
}

BoundPath::BoundPath(const Endpoint& endpoint) {
  if (endpoint.kind != Endpoint::Kind::kUnix || endpoint.host.starts_with('@')) return;
  struct stat status {};
  if (lstat(endpoint.host.c_str(), &status) != 0) return;
  path_ = endpoint.host;
  device_ = status.st_dev;
  inode_ = status.st_ino;
}

void BoundPath::remove() {
  struct stat status {};
  const bool ours = !path_.empty() && lstat(path_.c_str(), &status) == 0 &&
                    status.st_dev == device_ && status.st_ino == inode_;
  if (ours) unlink(path_.c_str());
  path_.clear();
}

void prepare_connection(int fd, int family) {
  if (family != AF_INET && family != AF_INET6) return;
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

bool was_reset(int fd) {
  pollfd state{fd, 0, 0};
  return poll(&state, 1, 0) == 1 && (state.revents & (POLLHUP | POLLERR)) != 0;
}

void close_with_reset(int fd) {
  const linger now{1, 0};
  (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close(fd);
}

}  // namespace virtproxy
