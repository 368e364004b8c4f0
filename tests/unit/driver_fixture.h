// A driver of each kind for a test, and what is driven.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "uring/io/open_driver.h"

namespace virtproxy {

inline Instant in(Duration duration) {
  return std::chrono::duration_cast<Instant>(std::chrono::steady_clock::now().time_since_epoch()) +
         duration;
}

struct Waiting final : Completion {
  void complete(Op&, Outcome outcome) override {
    result = outcome.result;
    buffer = outcome.buffer;
    more = outcome.more;
  }

  Op op{this};
  std::optional<int> result;
  int buffer = Outcome::kNoBuffer;
  bool more = false;
};

struct Pair {
  Pair() {
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) std::abort();
  }
  ~Pair() {
    for (const int fd : fds) close(fd);
  }
  File file() const { return {fds[0], -1}; }
  void feed(const char* text) {
    const auto size = static_cast<ssize_t>(std::strlen(text));
    ASSERT_EQ(write(fds[1], text, static_cast<size_t>(size)), size);
  }
  void fill() {
    const std::vector<std::byte> much(1 << 20);
    while (send(fds[0], much.data(), much.size(), MSG_DONTWAIT) > 0) continue;
    while (send(fds[0], much.data(), 1, MSG_DONTWAIT) > 0) continue;
  }
  void drain() {
    std::vector<std::byte> piece(1 << 16);
    while (recv(fds[1], piece.data(), piece.size(), MSG_DONTWAIT) > 0) continue;
  }
  int fds[2];
};

// A listener on the loopback interface.
struct TcpListener {
  TcpListener() {
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    if (bind(fd, any, length) != 0 || listen(fd, 8) != 0 || getsockname(fd, any, &length) != 0) {
      std::abort();
    }
  }
  ~TcpListener() { close(fd); }
  int accept() const { return accept4(fd, nullptr, nullptr, SOCK_CLOEXEC); }
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
};

// As a receiver that takes `size` bytes, or what there is before the end.
inline void receive_bytes(int fd, size_t size) {
  std::vector<std::byte> piece(1 << 18);
  while (size > 0) {
    const ssize_t count = read(fd, piece.data(), piece.size());
    if (count <= 0) return;
    size -= std::min(size, static_cast<size_t>(count));
  }
}

// A connection over the loopback interface.
struct TcpPair {
  TcpPair() {
    const TcpListener listener;
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const auto* const address = reinterpret_cast<const sockaddr*>(&listener.address);
    if (connect(fds[0], address, sizeof listener.address) != 0 ||
        fcntl(fds[0], F_SETFL, O_NONBLOCK) != 0) {
      std::abort();
    }
    fds[1] = listener.accept();
  }
  ~TcpPair() {
    for (const int fd : fds) close(fd);
  }
  File file() const { return {fds[0], -1}; }
  int fds[2];
};

class EachDriver : public testing::TestWithParam<DriverChoice> {
 protected:
  void SetUp() override {
    auto opened = open_driver(GetParam(), 4096, {});
    if (!opened) GTEST_SKIP() << opened.error();
    driver = std::move(opened->driver);
  }
  // Without sleeping.
  void turn() {
    ASSERT_EQ(driver->wait(Driver::kNow), 0);
    driver->dispatch();
  }
  void run_until(const std::function<bool()>& done) {
    const Instant limit = in(std::chrono::seconds(20));
    while (!done()) {
      ASSERT_EQ(driver->wait(in(std::chrono::milliseconds(20))), 0);
      driver->dispatch();
      ASSERT_LT(in({}), limit) << "it never comes";
    }
  }

  std::unique_ptr<Driver> driver;
};

inline const auto kDrivers = testing::Values(DriverChoice::kIoUring, DriverChoice::kEpoll);

inline std::string name_of_choice(const testing::TestParamInfo<DriverChoice>& tested) {
  return tested.param == DriverChoice::kIoUring ? "io_uring" : "epoll";
}

}  // namespace virtproxy
