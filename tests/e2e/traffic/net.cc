#include "net.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

namespace virtproxy::traffic {
namespace {

Address ParseUnix(const std::string& text) {
  Address address;
  address.text = text;
  sockaddr_un un{};
  un.sun_family = AF_UNIX;
  if (text.size() >= sizeof(un.sun_path)) throw UsageError("unix address too long: " + text);
  std::memcpy(un.sun_path, text.data(), text.size());
  if (text[0] == '@') un.sun_path[0] = '\0';
  const size_t tail = text[0] == '@' ? 0 : 1;
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + text.size() + tail);
  std::memcpy(&address.storage, &un, sizeof(un));
  return address;
}

}  // namespace

Address Address::Parse(const std::string& text) {
  if (text.empty()) throw UsageError("empty address");
  if (text[0] == '@' || text.find('/') != std::string::npos) return ParseUnix(text);
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    throw UsageError("address is neither host:port nor a path nor @name: " + text);
  }
  std::string host = text.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), text.substr(colon + 1).c_str(), &hints, &list);
  if (error != 0) throw UsageError("address " + text + ": " + gai_strerror(error));
  Address address;
  address.text = text;
  address.length = list->ai_addrlen;
  std::memcpy(&address.storage, list->ai_addr, list->ai_addrlen);
  freeaddrinfo(list);
  return address;
}

int Listen(const Address& address, int backlog) {
  const int fd = socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) throw Failure("socket for " + address.text + ": " + ErrorText(errno));
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  struct stat info {};
  if (address.IsUnix() && address.text[0] != '@' && stat(address.text.c_str(), &info) == 0 &&
      S_ISSOCK(info.st_mode)) {
    unlink(address.text.c_str());
  }
  if (bind(fd, address.Get(), address.length) != 0 || listen(fd, backlog) != 0) {
    const int error = errno;
    close(fd);
    throw Failure("listen on " + address.text + ": " + ErrorText(error));
  }
  return fd;
}

ConnectState StartConnect(const Address& address, int* fd) {
  *fd = socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (*fd < 0) throw Failure("socket for " + address.text + ": " + ErrorText(errno));
  if (!address.IsUnix()) SetNoDelay(*fd);
  if (connect(*fd, address.Get(), address.length) == 0) return ConnectState::kDone;
  const int error = errno;
  if (error == EINPROGRESS) return ConnectState::kInProgress;
  close(*fd);
  *fd = -1;
  if (error == EAGAIN) return ConnectState::kTryLater;
  throw Failure("connect to " + address.text + ": " + ErrorText(error));
}

int AcceptOne(int listener) {
  while (true) {
    const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      SetNoDelay(fd);  // Fails harmlessly on a unix socket.
      return fd;
    }
    if (errno == EAGAIN) return -1;
    if (errno != EINTR && errno != ECONNABORTED) throw Failure("accept: " + ErrorText(errno));
  }
}

void SetNoDelay(int fd) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

void CloseHard(int fd) {
  const linger hard{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
  close(fd);
}

int TakeError(int fd) {
  int error = 0;
  socklen_t length = sizeof(error);
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0) return errno;
  return error;
}

size_t RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_max;
}

std::string ErrorText(int error) {
  const char* name = strerrorname_np(error);
  return std::string(name == nullptr ? "error" : name) + " (" + std::strerror(error) + ")";
}

}  // namespace virtproxy::traffic
