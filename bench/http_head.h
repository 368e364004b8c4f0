// What precedes a connection's own bytes through an HTTP proxy: CONNECT from the client, which the
// sink, being the last proxy, answers. Heads end with an empty line.
#pragma once

#include <cstddef>
#include <string_view>

namespace virtproxy::bench {

inline constexpr std::string_view kConnectRequest =
    "CONNECT bench:1 HTTP/1.1\r\nHost: bench:1\r\n\r\n";
inline constexpr std::string_view kConnectAnswer = "HTTP/1.1 200 OK\r\n\r\n";

class HttpHead {
 public:
  // Returns how many of the bytes belong to the head.
  size_t take(const std::byte* data, size_t size) {
    size_t used = 0;
    while (used < size && !complete()) {
      const char letter = static_cast<char>(data[used++]);
      if (at_++ == kStatusAt) status_ = letter;
      ends_ = letter == kEnd[ends_] ? ends_ + 1 : letter == kEnd[0] ? 1 : 0;
    }
    return used;
  }

  bool complete() const { return ends_ == kEnd.size(); }
  // Of an answer: 2xx.
  bool agrees() const { return status_ == '2'; }

 private:
  static constexpr std::string_view kEnd = "\r\n\r\n";
  static constexpr size_t kStatusAt = 9;  // after "HTTP/1.1 "

  size_t at_ = 0;
  size_t ends_ = 0;  // letters of kEnd that came last
  char status_ = 0;
};

}  // namespace virtproxy::bench
