// One send or receive, with errno folded into what a connection has to do next.
#pragma once

#include <sys/socket.h>

#include <cerrno>
#include <cstddef>

namespace virtproxy::bench {

inline constexpr size_t kReceiveBuffer = 256 * 1024;
// Sends and receives of one connection before it is the turn of others.
inline constexpr size_t kStepsPerPoll = 64;

struct Transfer {
  enum class Status { kMoved, kWouldBlock, kEnd, kError };

  Status status;
  size_t bytes = 0;
  int error = 0;

  bool moved() const { return status == Status::kMoved; }
};

inline Transfer fold(ssize_t result) {
  using enum Transfer::Status;
  if (result > 0) return {kMoved, static_cast<size_t>(result), 0};
  if (result == 0) return {kEnd};
  if (errno == EAGAIN || errno == EINTR) return {kWouldBlock};
  return {kError, 0, errno};
}

inline Transfer send_some(int fd, const void* data, size_t size) {
  return fold(::send(fd, data, size, MSG_NOSIGNAL));
}

inline Transfer receive_some(int fd, void* data, size_t size) {
  return fold(::recv(fd, data, size, 0));
}

// TCP drops the bytes inside the kernel; unix sockets ignore the flag and copy them.
inline Transfer discard_some(int fd, void* scratch, size_t size) {
  return fold(::recv(fd, scratch, size, MSG_TRUNC));
}

}  // namespace virtproxy::bench
