// Opens N connections to one address, a bounded number at a time, and waits where a backlog is
// full.

#ifndef VIRTPROXY_TESTS_E2E_TRAFFIC_OPENER_H_
#define VIRTPROXY_TESTS_E2E_TRAFFIC_OPENER_H_

#include <cstdint>
#include <functional>
#include <utility>

#include "loop.h"
#include "net.h"

namespace virtproxy::traffic {

class Opener {
 public:
  // `take(fd)` gets every new descriptor, perhaps still connecting; the owner says Settled() once
  // the connection is good, and only then another one is opened in its place.
  Opener(Loop* loop, Address address, uint64_t count, std::function<void(int)> take)
      : address_(std::move(address)),
        left_(count),
        take_(std::move(take)),
        ticker_(loop, std::chrono::milliseconds(5), [this] { More(); }) {}

  void Settled() { --opening_; }
  bool AllStarted() const { return left_ == 0; }

 private:
  static constexpr uint64_t kAtOnce = 64;

  void More() {
    while (left_ > 0 && opening_ < kAtOnce) {
      int fd = -1;
      if (StartConnect(address_, &fd) == ConnectState::kTryLater) return;
      --left_;
      ++opening_;
      take_(fd);
    }
  }

  Address address_;
  uint64_t left_;
  uint64_t opening_ = 0;
  std::function<void(int)> take_;
  Ticker ticker_;
};

}  // namespace virtproxy::traffic

#endif  // VIRTPROXY_TESTS_E2E_TRAFFIC_OPENER_H_
