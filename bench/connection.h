// One client end: its socket, where it is in its life, and how much it has moved.
//
//   kUnopened → kConnecting → kGreeting → kParked ⇄ kExchanging            (exchanges)
//                                       → kParked ⇄ kStreaming → kEnding   (streams)
//   kParked → kConnecting → kExchanging → kEnding → kParked                (churn)
//   kConnecting → kTunnelling → as after kConnecting                       (--http-connect)
//   any → kDone
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "http_head.h"
#include "uring/base/unique_fd.h"
#include "wire.h"

namespace virtproxy::bench {

struct Connection {
  enum class State : uint8_t {
    kUnopened,
    kConnecting,
    kTunnelling,  // the proxy's answer to CONNECT is awaited
    kGreeting,
    kParked,      // open (or, in churn, closed) with nothing under way
    kExchanging,  // a message is being sent, or its answer is awaited
    kStreaming,
    kEnding,  // all was sent; the sink's last word and end of stream are awaited
    kDone,
  };

  UniqueFd fd;
  State state = State::kUnopened;
  Role role = Role::kExchange;
  bool queued = false;
  bool readable = false;
  bool writable = false;
  bool hangup = false;
  bool asks_writable = false;
  bool write_closed = false;
  HttpHead answer;
  size_t greeting_have = 0;

  uint64_t unit = 0;  // bytes of a message or of a write
  uint64_t seed = 0;
  uint64_t sent = 0;
  uint64_t send_goal = 0;
  uint64_t received = 0;
  uint64_t receive_goal = 0;
  int64_t due = 0;  // when the exchange under way was due
  uint64_t first_mismatch = UINT64_MAX;

  // The last bytes received, where the trailer of a stream is found at its end.
  std::array<std::byte, sizeof(Trailer)> tail{};
  uint64_t tail_total = 0;

  uint64_t moved_at_start = 0;
  uint64_t moved_in_window = 0;

  uint64_t moved() const { return sent + received; }
  bool may_send() const { return sent < send_goal; }
  void keep_tail(const std::byte* data, size_t size);
  // Returns to the state before connecting, but keeps what identifies the connection.
  void rewind();
};

}  // namespace virtproxy::bench
