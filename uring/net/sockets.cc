#include "uring/net/sockets.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "uring/base/log.h"
#include "uring/base/patience.h"
#include "uring/net/resolver.h"

namespace virtproxy {
namespace {

constexpr int kBacklog = 4096;

constexpr auto kAddressInterval = std::chrono::milliseconds(10);
// A process that was killed frees its addresses in less.
constexpr Duration kSilentWait = std::chrono::milliseconds(200);

// Bounds what a stalled stream holds in the kernel. By itself, TCP grows the buffers of a fast
// stream up to tcp_rmem and tcp_wmem (6 to 32 MB and 4 MB). Some hundred such streams that then
// stall put the whole machine under TCP memory pressure: segments of all connections are dropped,
// and are sent again after 200 ms or more. Connections over a network keep their receive window,
// which they need.
constexpr int kLoopbackReceiveBuffer = 256 * 1024;

std::string failure(const Address& address, const char* what, const char* advice) {
  return std::string("cannot ") + what + " " + address.to_string() + ": " + std::strerror(errno) +
         advice;
}

const char* advice_for(int error) {
  switch (error) {
    case EADDRINUSE:
      return " (another process listens there, or a connection still has that port)";
    case EACCES:
      return " (ports below 1024 and other users' directories need privileges)";
    case ENOENT:
      return " (the directory must exist)";
    case EEXIST:
      return " (no socket is there: remove it, or give another path)";
    case EADDRNOTAVAIL:
      return " (that address is not one of this machine's)";
    default:
      return "";
  }
}

// True when the path may be bound: it is free, or was left behind by a process that is gone.
bool clear_stale_path(const Address& address, const SocketAddress& at) {
  if (address.host.starts_with('@')) return true;
  struct stat status {};
  if (lstat(address.host.c_str(), &status) != 0) return true;
  if (!S_ISSOCK(status.st_mode)) {
    errno = EEXIST;
    return false;
  }
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (probe < 0) return false;
  const int error = connect(probe, at.data(), at.length) == 0 ? 0 : errno;
  close(probe);
  if (error != ECONNREFUSED) {
    // Without access the socket cannot be tried, and waiting does not change that.
    errno = error == EACCES ? EPERM : EADDRINUSE;
    return false;
  }
  return unlink(address.host.c_str()) == 0;
}

// Looks a host name up and waits for the answer.
tl::expected<std::vector<SocketAddress>, std::string> look_up(const Address& address) {
  Resolver resolver;
  resolver.start(address.host, static_cast<uint16_t>(address.port));
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

bool peer_is_on_loopback(int fd) {
  SocketAddress peer;
  peer.length = sizeof peer.storage;
  auto* address = reinterpret_cast<sockaddr*>(&peer.storage);
  return getpeername(fd, address, &peer.length) == 0 && peer.is_loopback();
}

tl::expected<int, std::string> give_up(int fd, const std::string& message) {
  const int error = errno;
  if (fd >= 0) close(fd);
  errno = error;
  return tl::unexpected(message);
}

tl::expected<int, std::string> try_to_listen_at(const Address& address, const SocketAddress& at,
                                                const ListenRules& rules, BoundPath& path) {
  if (at.family() == AF_UNIX && !clear_stale_path(address, at)) {
    const char* const advice =
        errno == EPERM
            ? " (a socket of another user is there, which this user may not try or not remove)"
            : advice_for(errno);
    return give_up(-1, failure(address, "listen on", advice));
  }
  const int fd = socket(at.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return tl::unexpected(failure(address, "listen on", advice_for(errno)));
  set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (at.family() == AF_INET6) {
    set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, address.is_wildcard() ? 0 : 1);
  }
  if (!bind_to(fd, at, rules)) {
    return give_up(fd, failure(address, "listen on", advice_for(errno)));
  }
  path = BoundPath(address);
  const bool in_file_system = at.family() == AF_UNIX && !address.host.starts_with('@');
  if (in_file_system && !give_away(address.host, rules)) {
    return give_up(
        fd, failure(address, "change the owner of", " (--socket-owner, or --user, needs root)"));
  }
  if (listen(fd, kBacklog) != 0) {
    return give_up(fd, failure(address, "listen on", advice_for(errno)));
  }
  return fd;
}

tl::expected<int, std::string> listen_at(const Address& address, const SocketAddress& at,
                                         const ListenRules& rules, Duration patience,
                                         BoundPath& path) {
  Patience wait(patience);
  for (bool told = false;;) {
    auto fd = try_to_listen_at(address, at, rules, path);
    if (fd || errno != EADDRINUSE || !wait.wait(kAddressInterval)) return fd;
    if (wait.waited() > kSilentWait && !std::exchange(told, true)) {
      log_info("another process still listens on {}: waiting up to {} ms for its end",
               address.to_string(),
               std::chrono::ceil<std::chrono::milliseconds>(wait.left()).count());
    }
  }
}

tl::expected<std::vector<SocketAddress>, std::string> addresses_of(const Address& address) {
  if (address.is_wildcard()) {
    // One [::] socket takes IPv4 as well; the other one is for machines without IPv6.
    return std::vector{any_address(AF_INET6, static_cast<uint16_t>(address.port)),
                       any_address(AF_INET, static_cast<uint16_t>(address.port))};
  }
  if (address.needs_resolver()) return look_up(address);
  auto known = to_socket_address(address);
  if (!known) return tl::unexpected(known.error());
  return std::vector{*known};
}

bool reaches_far(const SocketAddress& at) {
  const bool tcp = at.family() == AF_INET || at.family() == AF_INET6;
  return tcp && !at.is_loopback();
}

}  // namespace

bool give_away(const std::string& path, const ListenRules& rules) {
  if (!rules.owner && !rules.group) return true;
  const int fd = open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return false;
  struct stat status {};
  bool good = fstat(fd, &status) == 0;
  if (good && !(S_ISSOCK(status.st_mode) && status.st_uid == geteuid() && status.st_nlink == 1)) {
    errno = EEXIST;
    good = false;
  }
  good = good && fchownat(fd, "", rules.owner.value_or(static_cast<uid_t>(-1)),
                          rules.group.value_or(static_cast<gid_t>(-1)), AT_EMPTY_PATH) == 0;
  const int error = errno;
  close(fd);
  errno = error;
  return good;
}

bool bind_to(int fd, const SocketAddress& at, const ListenRules& rules) {
  const bool masked = at.family() == AF_UNIX && rules.mode;
  const mode_t before = masked ? umask(~*rules.mode & 0777) : 0;
  const bool bound = bind(fd, at.data(), at.length) == 0;
  const int error = errno;
  if (masked) umask(before);
  errno = error;
  return bound;
}

std::string remote_fault(const Address& address) {
  return "listens where other machines can connect (" + address.to_string() +
         "): start with --allow-remote if that is meant (qemu-vp never asked), or listen on "
         "127.0.0.1 "
         "or [::1]";
}

tl::expected<std::vector<SocketAddress>, std::string> listen_addresses(const Address& address,
                                                                       const ListenRules& rules) {
  auto addresses = addresses_of(address);
  if (!addresses) return addresses;
  // One such address is enough, because others decide which of them they connect to.
  if (!rules.allow_remote && std::any_of(addresses->begin(), addresses->end(), reaches_far)) {
    return tl::unexpected("the listener " + remote_fault(address));
  }
  return addresses;
}

tl::expected<Listening, std::string> listen_on(const Address& address, const ListenRules& rules,
                                               Duration patience) {
  const auto addresses = listen_addresses(address, rules);
  if (!addresses) return tl::unexpected(addresses.error());
  Listening listening;
  std::string first_error;
  for (const SocketAddress& at : *addresses) {
    if (const auto fd = listen_at(address, at, rules, patience, listening.path)) {
      listening.sockets.push_back(*fd);
      if (address.is_wildcard()) break;
    } else if (first_error.empty()) {
      first_error = fd.error();
    }
  }
  if (listening.sockets.empty()) return tl::unexpected(first_error);
  return listening;
}

// The kernel unhashes the socket, and keeps a port that was bound by number (SOCK_BINDPORT_LOCK).
void stop_listening(int fd) { (void)shutdown(fd, SHUT_RD); }

bool listen_again(int fd) { return listen(fd, kBacklog) == 0; }

BoundPath::BoundPath(const Address& address) {
  if (address.kind != Address::Kind::kUnix || address.host.starts_with('@')) return;
  struct stat status {};
  if (lstat(address.host.c_str(), &status) != 0) return;
  path_ = address.host;
  device_ = status.st_dev;
  inode_ = status.st_ino;
}

BoundPath::BoundPath(BoundPath&& other) noexcept
    : path_(std::exchange(other.path_, {})), device_(other.device_), inode_(other.inode_) {}

BoundPath& BoundPath::operator=(BoundPath&& other) noexcept {
  remove();
  path_ = std::exchange(other.path_, {});
  device_ = other.device_;
  inode_ = other.inode_;
  return *this;
}

void BoundPath::remove() {
  struct stat status {};
  const bool ours = !path_.empty() && lstat(path_.c_str(), &status) == 0 &&
                    status.st_dev == device_ && status.st_ino == inode_;
  if (ours && unlink(path_.c_str()) != 0) {
    log_info("{} stays behind ({}): the next daemon that listens there takes it over",
             printable(path_), std::strerror(errno));
  }
  path_.clear();
}

void prepare_tcp(int fd) {
  set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, static_cast<int>(kMostUnsent));
  if (peer_is_on_loopback(fd)) set_option(fd, SOL_SOCKET, SO_RCVBUF, kLoopbackReceiveBuffer);
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  // Urgent bytes keep their place among the others. That they were urgent is not carried.
  set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

bool was_reset(int fd) {
  pollfd state{fd, 0, 0};
  // An error that is still there belongs to a reset behind the end: the receive has told the end
  // first.
  return poll(&state, 1, 0) == 1 && (state.revents & (POLLHUP | POLLERR)) == POLLHUP;
}

void reset_on_close(int fd) {
  const linger at_once{1, 0};
  (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

void end_on_close(int fd) {
  const linger none{0, 0};
  (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

int unacknowledged(int fd) {
  int bytes = 0;
  return ioctl(fd, SIOCOUTQ, &bytes) == 0 ? bytes : 0;
}

void close_with_reset(int fd) {
  reset_on_close(fd);
  close(fd);
}

}  // namespace virtproxy
