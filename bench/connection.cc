#include "connection.h"

#include <algorithm>
#include <cstring>

namespace virtproxy::bench {

void Connection::keep_tail(const std::byte* data, size_t size) {
  tail_total += size;
  const size_t fresh = std::min(size, tail.size());
  std::memmove(tail.data(), tail.data() + fresh, tail.size() - fresh);
  std::memcpy(tail.data() + tail.size() - fresh, data + size - fresh, fresh);
}

void Connection::rewind() {
  fd.reset();
  readable = writable = hangup = asks_writable = write_closed = false;
  answer = HttpHead{};
  greeting_have = 0;
  sent = send_goal = received = receive_goal = 0;
  first_mismatch = UINT64_MAX;
  tail_total = 0;
}

}  // namespace virtproxy::bench
