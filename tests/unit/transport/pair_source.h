// A kind of channel for tests: a socket pair between two channels of one process that have the same
// address. Only transport_kind_test.cc has it in its table.
#pragma once

#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <string>
#include <utility>

#include "uring/transport/transport_source.h"

namespace virtproxy {

// A pair could be replaced unnoticed as little as any socket; that it may damage bytes is made up,
// to see that sessions follow the traits of their kind.
inline constexpr TransportTraits kPairTraits = [] {
  TransportTraits traits = transport_traits::kSocket;
  traits.preserves_bytes = false;
  traits.max_frame = 8 * 1024;
  return traits;
}();

// The first channel that comes makes the pair, the second one takes the other end.
class PairSource final : public TransportSource {
 public:
  explicit PairSource(const TransportSetup& setup) : TransportSource(setup) {}
  ~PairSource() override { stop(); }

  static inline unsigned made = 0;  // pairs, of all channels

 private:
  struct Left {
    const PairSource* by;
    int fd;
  };

  void acquire() override {
    const auto found = left_.find(spec().address.host);
    if (found != left_.end() && found->second.by != this) {
      spare().release();
      return ready(left_.extract(found).mapped().fd, kPairTraits);
    }
    cancel();
    int ends[2];
    spare().release();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) {
      return try_later("no pair");
    }
    ++made;
    left_[spec().address.host] = {this, ends[1]};
    ready(ends[0], kPairTraits);
  }
  void cancel() override {
    const auto found = left_.find(spec().address.host);
    if (found == left_.end() || found->second.by != this) return;
    close(found->second.fd);
    left_.erase(found);
  }

  static inline std::map<std::string, Left> left_;  // ends that wait for the other channel
};

}  // namespace virtproxy
