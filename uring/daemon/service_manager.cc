#include "uring/daemon/service_manager.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <utility>

#include "uring/base/clock.h"
#include "uring/base/log.h"
#include "uring/base/take_variable.h"
#include "uring/net/address.h"

namespace virtproxy {
namespace {

using Failure = tl::unexpected<std::string>;

// Of one message in the kernel (SCM_MAX_FD).
constexpr size_t kMostDescriptors = 253;
// How long a manager that reads nothing may hold up the start and the end.
constexpr timeval kSendTimeout{5, 0};

std::optional<uint64_t> number(std::string_view text) {
  uint64_t value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || stop != text.data() + text.size()) return std::nullopt;
  return value;
}

tl::expected<int, std::string> connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const bool known = path.starts_with('/') || path.starts_with('@');
  if (!known || path.size() < 2 || path.size() > kMaxUnixPath) {
    return Failure(
        fmt::format("NOTIFY_SOCKET={} is neither an absolute path nor @NAME of at most {} "
                    "bytes",
                    printable(path), kMaxUnixPath));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  const bool abstract = path.starts_with('@');
  if (abstract) address.sun_path[0] = '\0';
  const auto length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1));
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return Failure(fmt::format("NOTIFY_SOCKET: {}", std::strerror(errno)));
  (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kSendTimeout, sizeof kSendTimeout);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), length) != 0) {
    auto error = fmt::format(
        "NOTIFY_SOCKET={}: {}: start the service by its manager, or unset the "
        "variable",
        printable(path), std::strerror(errno));
    close(fd);
    return Failure(std::move(error));
  }
  return fd;
}

}  // namespace

ServiceManager::ServiceManager(ServiceManager&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      watchdog_(other.watchdog_),
      stores_(other.stores_),
      failed_(other.failed_) {}

ServiceManager::~ServiceManager() {
  if (fd_ >= 0) close(fd_);
}

tl::expected<ServiceManager, std::string> ServiceManager::from_environment() {
  ServiceManager manager;
  const auto path = take_variable("NOTIFY_SOCKET");
  const auto period = take_variable("WATCHDOG_USEC");
  const auto process = take_variable("WATCHDOG_PID");
  const auto store = take_variable("FDSTORE");
  if (!path || path->empty()) return manager;
  const auto fd = connect_to(*path);
  if (!fd) return Failure(fd.error());
  manager.fd_ = *fd;
  if (period && (!process || number(*process) == static_cast<uint64_t>(getpid()))) {
    const auto microseconds = number(*period);
    constexpr uint64_t kLongest = uint64_t{86400} * 365 * 1000000;
    if (!microseconds || *microseconds == 0 || *microseconds > kLongest) {
      return Failure(fmt::format("WATCHDOG_USEC={} is no number of microseconds from 1 to {}",
                                 printable(*period), kLongest));
    }
    manager.watchdog_ = std::chrono::microseconds(*microseconds);
  }
  if (store) {
    const auto most = number(*store);
    if (!most) {
      return Failure(fmt::format("FDSTORE={} is no number of descriptors", printable(*store)));
    }
    manager.stores_ = *most > 0;
  }
  return manager;
}

void ServiceManager::ready(std::string_view status) {
  send(fmt::format("READY=1\nSTATUS={}", status));
}

void ServiceManager::reloading() {
  const auto now = std::chrono::duration_cast<std::chrono::microseconds>(monotonic_now()).count();
  send(fmt::format("RELOADING=1\nMONOTONIC_USEC={}", now));
}

void ServiceManager::stopping(std::string_view status, Duration limit) {
  const auto microseconds = std::chrono::duration_cast<std::chrono::microseconds>(limit).count();
  send(fmt::format("STOPPING=1\nSTATUS={}\nEXTEND_TIMEOUT_USEC={}", status, microseconds));
}

void ServiceManager::alive() { send("WATCHDOG=1", MSG_DONTWAIT); }

void ServiceManager::store(std::string_view name, std::span<const int> sockets, bool replace) {
  if (fd_ < 0 || !stores_) return;
  if (replace) send(fmt::format("FDSTOREREMOVE=1\nFDNAME={}", name));
  std::string text = fmt::format("FDSTORE=1\nFDNAME={}", name);
  while (!sockets.empty()) {
    const auto some = sockets.first(std::min(sockets.size(), kMostDescriptors));
    sockets = sockets.subspan(some.size());
    alignas(cmsghdr) char control[CMSG_SPACE(kMostDescriptors * sizeof(int))] = {};
    iovec part{text.data(), text.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(some.size_bytes());
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(some.size_bytes());
    std::memcpy(CMSG_DATA(header), some.data(), some.size_bytes());
    if (sendmsg(fd_, &message, MSG_NOSIGNAL) < 0) {
      log_warn("the service manager does not take listeners ({}): a restart will refuse clients",
               std::strerror(errno));
      return;
    }
  }
}

// A message without an address on a connected socket: the sandbox allows it. EINTR cannot happen,
// the main thread has its signals blocked.
void ServiceManager::send(std::string_view text, int flags) {
  if (fd_ < 0) return;
  if (::send(fd_, text.data(), text.size(), MSG_NOSIGNAL | flags) >= 0) return;
  if (std::exchange(failed_, true)) return;
  log_warn("the service manager was not told {}: {}", text.substr(0, text.find('\n')),
           std::strerror(errno));
}

}  // namespace virtproxy
