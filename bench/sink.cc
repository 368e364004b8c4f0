#include "sink.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <limits>

#include "clock.h"
#include "http_head.h"
#include "pattern.h"
#include "transfer.h"

namespace virtproxy::bench {
namespace {

constexpr size_t kSendBuffer = 256 * 1024;
constexpr int64_t kAcceptRetry = 100 * kMillisecond;

// Listeners and connections share the event's pointer; this bit tells them apart.
constexpr uintptr_t kListenerBit = 1;

}  // namespace

struct Sink::Connection {
  UniqueFd fd;
  bool is_unix = false;
  bool queued = false;
  bool readable = false;
  bool writable = false;
  bool hangup = false;
  bool asks_writable = false;
  bool corrupted = false;
  bool may_stream = false;
  bool ended = false;  // the client's end of stream was seen
  bool discards = false;
  HttpHead head{};  // where the proxy asks for a tunnel first
  size_t request_have = 0;
  size_t greeting_sent = 0;
  size_t trailer_sent = 0;
  uint64_t received = 0;
  uint64_t sent = 0;
  Request request{};

  bool requested() const { return request_have == sizeof(Request); }
  bool greeted() const {
    return request.role == Role::kExchangeOnce || greeting_sent == sizeof(kGreetingWord);
  }
  bool receive_complete() const {
    return ended || ((request.flags & kFlagNoHalfClose) != 0 && request.bytes != 0 &&
                     (!sends_up(request.role) || received >= request.bytes));
  }
  uint64_t send_goal() const {
    if (!is_stream(request.role)) return received / request.size * request.size;
    if (!sends_down(request.role) || !may_stream) return 0;
    if (request.bytes != 0) return request.bytes;
    return ended ? sent : std::numeric_limits<uint64_t>::max();
  }
  bool trailer_due() const {
    return may_stream && is_stream(request.role) && receive_complete() && sent >= send_goal();
  }
  bool wants_to_send() const {
    return requested() && (!greeted() || sent < send_goal() || trailer_due());
  }
};

Sink::Sink(const std::vector<Address>& addresses, const SocketOptions& options, bool http_connect)
    : options_(options),
      http_connect_(http_connect),
      receive_buffer_(kReceiveBuffer),
      send_buffer_(kSendBuffer),
      pattern_buffer_(kSendBuffer) {
  for (const Address& address : addresses) {
    listeners_.push_back({open_listener(address, options), address.is_unix(), address.file()});
  }
  for (Listener& listener : listeners_) {
    const auto tagged = reinterpret_cast<uintptr_t>(&listener) | kListenerBit;
    poller_.add(listener.fd.get(), reinterpret_cast<void*>(tagged), EPOLLIN);
  }
}

Sink::~Sink() {
  for (const Listener& listener : listeners_) {
    if (!listener.file.empty()) ::unlink(listener.file.c_str());
  }
}

void Sink::stop() {
  stopping_.store(true, std::memory_order_relaxed);
  poller_.wake();
}

void Sink::run() {
  while (!stopping_.load(std::memory_order_relaxed)) {
    for (const epoll_event& event : poller_.wait(runnable_.empty() ? -1 : 0)) {
      if (event.data.ptr != nullptr) handle_event(event.data.ptr, event.events);
    }
    for (size_t left = std::min(runnable_.size(), kStepsPerPoll); left > 0; --left) {
      Connection& connection = *runnable_.pop();
      connection.queued = false;
      step(connection);
    }
  }
}

void Sink::handle_event(void* owner, uint32_t events) {
  const auto tagged = reinterpret_cast<uintptr_t>(owner);
  if ((tagged & kListenerBit) != 0) {
    accept_all(*reinterpret_cast<Listener*>(tagged & ~kListenerBit));
    return;
  }
  Connection& connection = *static_cast<Connection*>(owner);
  const bool ended = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
  if (ended || (events & EPOLLIN) != 0) connection.readable = true;
  if (ended) connection.hangup = true;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) connection.writable = true;
  enqueue(connection);
}

void Sink::accept_all(Listener& listener) {
  for (;;) {
    UniqueFd fd(::accept4(listener.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.valid()) {
      // The listener is level-triggered: without the pause a full descriptor table would spin.
      if (errno == EMFILE || errno == ENFILE) {
        const timespec pause{0, kAcceptRetry};
        ::nanosleep(&pause, nullptr);
      }
      return;
    }
    apply_options(fd.get(), listener.is_unix, options_);
    if (free_.empty()) {
      connections_.push_back(std::make_unique<Connection>());
      free_.push_back(connections_.back().get());
    }
    Connection& connection = *free_.back();
    free_.pop_back();
    connection = Connection{};
    connection.fd = std::move(fd);
    connection.is_unix = listener.is_unix;
    connection.writable = true;
    poller_.add(connection.fd.get(), &connection, Poller::kRead);
  }
}

void Sink::enqueue(Connection& connection) {
  if (connection.queued || !connection.fd.valid()) return;
  connection.queued = true;
  runnable_.push(&connection);
}

void Sink::step(Connection& connection) {
  if (connection.readable) receive(connection);
  if (connection.fd.valid() && connection.writable && connection.wants_to_send()) send(connection);
  if (!connection.fd.valid()) return;
  if (connection.readable || (connection.writable && connection.wants_to_send())) {
    enqueue(connection);
  }
}

void Sink::receive(Connection& connection) {
  const int fd = connection.fd.get();
  const Transfer transfer = connection.discards
                                ? discard_some(fd, receive_buffer_.data(), receive_buffer_.size())
                                : receive_some(fd, receive_buffer_.data(), receive_buffer_.size());
  switch (transfer.status) {
    case Transfer::Status::kMoved:
      if (transfer.bytes < receive_buffer_.size() && !connection.hangup) {
        connection.readable = false;
      }
      if (connection.discards) {
        count_payload(connection, nullptr, transfer.bytes);
      } else {
        take(connection, receive_buffer_.data(), transfer.bytes);
      }
      return;
    case Transfer::Status::kWouldBlock:
      connection.readable = false;
      return;
    case Transfer::Status::kEnd:
      connection.readable = false;
      connection.ended = true;
      // Without a half-close a trailer may still be on its way; otherwise nothing is left to say.
      if (!connection.may_stream || !is_stream(connection.request.role)) close(connection);
      return;
    case Transfer::Status::kError:
      close(connection);
      return;
  }
}

// Answers CONNECT. `used` is how many of the bytes were its. False when the tunnel is not open yet.
bool Sink::open_tunnel(Connection& connection, const std::byte* data, size_t size, size_t& used) {
  used = connection.head.take(data, size);
  if (!connection.head.complete()) return false;
  const Transfer transfer =
      send_some(connection.fd.get(), kConnectAnswer.data(), kConnectAnswer.size());
  if (transfer.moved() && transfer.bytes == kConnectAnswer.size()) return true;
  close(connection);
  return false;
}

void Sink::take(Connection& connection, std::byte* data, size_t size) {
  if (http_connect_ && !connection.head.complete()) {
    size_t used = 0;
    if (!open_tunnel(connection, data, size, used)) return;
    data += used;
    size -= used;
    if (size == 0) return;
  }
  if (!connection.requested()) {
    const size_t part = std::min(size, sizeof(Request) - connection.request_have);
    std::memcpy(reinterpret_cast<std::byte*>(&connection.request) + connection.request_have, data,
                part);
    connection.request_have += part;
    data += part;
    size -= part;
    if (!connection.requested()) return;
    if (!parse_request(connection)) return;
  }
  if (size == 0) return;
  if (!connection.may_stream) {
    start_streaming(connection);
    ++data;
    --size;
  }
  if (size > 0) count_payload(connection, data, size);
}

void Sink::start_streaming(Connection& connection) {
  connection.may_stream = true;
  connection.discards = !connection.is_unix && (connection.request.flags & kFlagVerify) == 0;
}

bool Sink::parse_request(Connection& connection) {
  const Request& request = connection.request;
  const auto role = static_cast<uint8_t>(request.role);
  if (request.magic != Request::kMagic || role < 1 || role > 5 || request.size == 0) {
    counters_.refused.add(1);
    close(connection);
    return false;
  }
  if (!sends_down(request.role)) start_streaming(connection);
  counters_.connections.add(1);
  return true;
}

void Sink::count_payload(Connection& connection, const std::byte* data, size_t size) {
  const Request& request = connection.request;
  if ((request.flags & kFlagVerify) != 0 && !connection.corrupted &&
      find_mismatch(up_seed(request.seed), connection.received, {data, size}) != size) {
    connection.corrupted = true;
    counters_.mismatches.add(1);
  }
  connection.received += size;
  (is_stream(request.role) ? counters_.stream_received : counters_.exchange_bytes).add(size);
}

void Sink::send(Connection& connection) {
  if (!connection.greeted()) {
    send_bytes(connection,
               reinterpret_cast<const std::byte*>(&kGreetingWord) + connection.greeting_sent,
               sizeof(kGreetingWord) - connection.greeting_sent, connection.greeting_sent);
    return;
  }
  const uint64_t goal = connection.send_goal();
  if (connection.sent < goal) {
    send_payload(connection, goal);
  } else {
    send_trailer(connection);
  }
}

void Sink::send_payload(Connection& connection, uint64_t goal) {
  const Request& request = connection.request;
  const uint64_t message_left = request.size - connection.sent % request.size;
  const size_t size =
      std::min({static_cast<uint64_t>(send_buffer_.size()), message_left, goal - connection.sent});
  const std::byte* data = send_buffer_.data();
  if ((request.flags & kFlagVerify) != 0) {
    // An exchange has no trailer: a corrupted one is answered by a pattern that cannot match.
    const bool spoil = connection.corrupted && !is_stream(request.role);
    const uint64_t seed = down_seed(request.seed) ^ (spoil ? ~uint64_t{0} : 0);
    fill_pattern(seed, connection.sent, {pattern_buffer_.data(), size});
    data = pattern_buffer_.data();
  }
  size_t moved = 0;
  send_bytes(connection, data, size, moved);
  connection.sent += moved;
  if (is_stream(request.role)) {
    counters_.stream_sent.add(moved);
  } else if (connection.sent % request.size == 0 && moved > 0) {
    counters_.exchanges.add(1);
    if (request.role == Role::kExchangeOnce) close(connection);
  }
}

void Sink::send_trailer(Connection& connection) {
  Trailer trailer;
  trailer.received = connection.received | (connection.corrupted ? Trailer::kCorrupted : 0);
  trailer.sent = connection.sent;
  const size_t size = trailer_size(connection.request.role);
  const size_t left = size - connection.trailer_sent;
  send_bytes(connection, reinterpret_cast<const std::byte*>(&trailer) + connection.trailer_sent,
             left, connection.trailer_sent);
  if (connection.trailer_sent == size) close(connection);
}

void Sink::send_bytes(Connection& connection, const std::byte* data, size_t size, size_t& done) {
  const Transfer transfer = send_some(connection.fd.get(), data, size);
  if (transfer.moved()) {
    done += transfer.bytes;
  } else if (transfer.status == Transfer::Status::kError) {
    close(connection);
  } else {
    connection.writable = false;
    if (!connection.asks_writable) {
      connection.asks_writable = true;
      poller_.modify(connection.fd.get(), &connection, Poller::kReadWrite);
    }
  }
}

void Sink::close(Connection& connection) {
  connection.fd.reset();
  free_.push_back(&connection);
}

}  // namespace virtproxy::bench
