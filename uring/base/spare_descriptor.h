// A descriptor kept in reserve: when clients have taken all others, its number is still to be had for
// the connection of a channel.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <utility>

namespace virtproxy {

class SpareDescriptor {
 public:
  SpareDescriptor() = default;
  ~SpareDescriptor() { release(); }
  SpareDescriptor(const SpareDescriptor&) = delete;
  SpareDescriptor& operator=(const SpareDescriptor&) = delete;

  // Takes one, unless it has one. False if there is none.
  bool hold() {
    if (fd_ < 0) fd_ = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    return fd_ >= 0;
  }
  // Makes room for one descriptor, which the caller takes next. False if it has none.
  bool release() {
    if (fd_ < 0) return false;
    close(std::exchange(fd_, -1));
    return true;
  }
  // Closes `fd`, and keeps its number in reserve if it has none. dup3(2) changes what the number
  // stands for in one step, so no other thread can take it in between.
  void close_into(int fd) {
    if (fd_ < 0 && dup3(STDERR_FILENO, fd, O_CLOEXEC) == fd) {
      fd_ = fd;
    } else {
      close(fd);
    }
  }
  // Keeps that of `other` unless it has one; `other` has none afterwards.
  void take_over(SpareDescriptor& other) {
    if (fd_ >= 0) {
      other.release();
      return;
    }
    fd_ = std::exchange(other.fd_, -1);
  }

 private:
  int fd_ = -1;
};

}  // namespace virtproxy
