// What is known of one stream for those who observe it: its bytes, its age and what it waits for.
//
// Counting costs an addition. Observers are called only where a wait begins or ends, and at the
// end.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "uring/io/loop.h"
#include "uring/mux/observer.h"

namespace virtproxy {

// One stream in a list of them.
struct StreamView {
  StreamKey stream;
  std::string_view service;
  StreamRole role;
  StreamBytes bytes;
  Duration age;
  std::optional<StallReason> waits_for;  // of several reasons, the one that holds for longest
  Duration waits{};                      // for so long
  int fd = -1;                           // of its application, while there is one
};

class StreamAccount {
 public:
  // `observers`, `loop` and `total`, to which its bytes are added, must outlive it.
  StreamAccount(const ObserverList& observers, const Loop& loop, StreamBytes& total,
                StreamKey stream, std::string_view service, StreamRole role)
      : observers_(observers),
        loop_(loop),
        total_(total),
        stream_(stream),
        service_(service),
        role_(role),
        opened_at_(loop.now()) {}

  StreamKey stream() const { return stream_; }
  const std::string& service() const { return service_; }
  StreamRole role() const { return role_; }

  void sent(uint64_t bytes) {
    bytes_.sent += bytes;
    total_.sent += bytes;
  }
  void received(uint64_t bytes) {
    bytes_.received += bytes;
    total_.received += bytes;
  }

  // Both do nothing where the stream is in that state already. Several reasons may hold at once.
  void stall(StallReason reason) {
    if ((stalls_ & bit(reason)) == 0 && !closed_) begin_stall(reason);
  }
  void unstall(StallReason reason) {
    if ((stalls_ & bit(reason)) != 0) end_stall(reason);
  }

  // Without a descriptor. Valid until the account is changed.
  StreamView view() const;

  // The stream is over by `fault`, or in order. Only the first call counts.
  void close(Fault fault);

 private:
  static constexpr uint8_t bit(StallReason reason) {
    return static_cast<uint8_t>(1u << static_cast<unsigned>(reason));
  }
  void begin_stall(StallReason reason);
  void end_stall(StallReason reason);

  const ObserverList& observers_;
  const Loop& loop_;
  StreamBytes& total_;
  const StreamKey stream_;
  const std::string service_;
  const StreamRole role_;
  bool closed_ = false;
  uint8_t stalls_ = 0;  // a bit for each StallReason
  const Instant opened_at_;
  StreamBytes bytes_;
  std::array<Instant, kStallReasons> stalled_since_{};
};

}  // namespace virtproxy
