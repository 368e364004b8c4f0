#include "net.h"

#include <fcntl.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace oldpeer {
namespace {

struct Target {
  sockaddr_storage storage{};
  socklen_t length = 0;

  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

bool Resolve(const Place& place, bool passive, Target* target) {
  if (place.IsPath()) {
    auto* un = reinterpret_cast<sockaddr_un*>(&target->storage);
    if (place.address.size() >= sizeof un->sun_path) {
      errno = ENAMETOOLONG;
      return false;
    }
    un->sun_family = AF_UNIX;
    std::memcpy(un->sun_path, place.address.c_str(), place.address.size() + 1);
    target->length = sizeof *un;
    return true;
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = passive ? AI_PASSIVE : 0;
  addrinfo* found = nullptr;
  if (getaddrinfo(place.address.c_str(), place.port.c_str(), &hints, &found) != 0) {
    errno = EADDRNOTAVAIL;
    return false;
  }
  std::memcpy(&target->storage, found->ai_addr, found->ai_addrlen);
  target->length = found->ai_addrlen;
  freeaddrinfo(found);
  return true;
}

int CloseKeepingErrno(int fd) {
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

}  // namespace

int Listen(const Place& place, int backlog) {
  Target target;
  if (!Resolve(place, true, &target)) return -1;
  const int fd = socket(target.storage.ss_family, SOCK_STREAM, 0);
  if (fd < 0) return -1;
  const int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (place.IsPath()) unlink(place.address.c_str());
  if (bind(fd, target.get(), target.length) != 0 || listen(fd, backlog) != 0) {
    return CloseKeepingErrno(fd);
  }
  return fd;
}

int Dial(const Place& place) {
  Target target;
  if (!Resolve(place, false, &target)) return -1;
  const int fd = socket(target.storage.ss_family, SOCK_STREAM, 0);
  if (fd < 0) return -1;
  return connect(fd, target.get(), target.length) == 0 ? fd : CloseKeepingErrno(fd);
}

int StartDial(const Place& place) {
  Target target;
  if (!Resolve(place, false, &target)) return -1;
  const int fd = socket(target.storage.ss_family, SOCK_STREAM, 0);
  if (fd < 0) return -1;
  SetNonblocking(fd, true);
  if (connect(fd, target.get(), target.length) == 0 || errno == EINPROGRESS) return fd;
  return CloseKeepingErrno(fd);
}

int DialError(int fd) {
  int error = 0;
  socklen_t length = sizeof error;
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno;
}

int OpenDevice(const Place& place, bool raw_tty) {
  const int fd = open(place.address.c_str(), O_RDWR | O_NOCTTY);
  termios mode{};
  if (fd >= 0 && raw_tty && tcgetattr(fd, &mode) == 0) {
    cfmakeraw(&mode);
    tcsetattr(fd, TCSANOW, &mode);
  }
  return fd;
}

void SetNonblocking(int fd, bool on) {
  const int flags = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

bool WriteAll(int fd, const void* data, size_t size) {
  const auto* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t count = write(fd, at, size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    at += count;
    size -= static_cast<size_t>(count);
  }
  return true;
}

}  // namespace oldpeer
