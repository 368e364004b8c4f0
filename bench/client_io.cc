#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "client.h"
#include "pattern.h"

namespace virtproxy::bench {

void Client::step(Connection& connection) {
  switch (connection.state) {
    case State::kConnecting:
      if (connection.writable && connection.fd.valid()) complete_connect(connection);
      return;
    case State::kTunnelling:
      if (connection.readable) receive_tunnel(connection);
      return;
    case State::kGreeting:
      if (connection.readable) receive_greeting(connection);
      return;
    case State::kParked:
      if (connection.readable) check_parked(connection);
      return;
    case State::kExchanging:
      step_exchange(connection);
      return;
    case State::kStreaming:
      step_stream(connection);
      return;
    case State::kEnding:
      if (connection.readable) {
        is_stream(connection.role) ? receive_stream(connection) : await_close(connection);
      }
      return;
    case State::kUnopened:
    case State::kDone:
      return;
  }
}

void Client::complete_connect(Connection& connection) {
  int error = 0;
  socklen_t length = sizeof(error);
  ::getsockopt(connection.fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) {
    connection.readable = connection.writable = false;
    connect_failed(connection, error);
  } else {
    greet(connection);
  }
}

// The first bytes on a new connection.
void Client::greet(Connection& connection) {
  if (!plan_.http_connect) {
    send_request(connection);
    return;
  }
  set_state(connection, State::kTunnelling);
  const Transfer transfer =
      send_some(connection.fd.get(), kConnectRequest.data(), kConnectRequest.size());
  if (!settle(connection, transfer, "sending CONNECT")) return;
  if (connection.readable) enqueue(connection);
}

void Client::receive_tunnel(Connection& connection) {
  // Nothing can follow the answer: the sink has not been asked anything yet.
  const Transfer transfer =
      receive_some(connection.fd.get(), receive_buffer_.data(), receive_buffer_.size());
  if (!settle(connection, transfer, "waiting for the answer to CONNECT")) return;
  note_drained(connection, transfer.bytes, receive_buffer_.size());
  if (connection.answer.take(receive_buffer_.data(), transfer.bytes) != transfer.bytes) {
    fail(connection, Outcome::kCorrupted, "more than an answer to CONNECT came back");
  } else if (connection.answer.complete() && !connection.answer.agrees()) {
    fail(connection, Outcome::kConnectFailed, "the proxy refused CONNECT");
  } else if (connection.answer.complete()) {
    send_request(connection);
  }
}

// The first message of a churned connection travels with the request.
void Client::send_request(Connection& connection) {
  Request request;
  request.role = connection.role;
  request.flags = static_cast<uint8_t>((plan_.verify ? kFlagVerify : 0) |
                                       (plan_.half_close ? 0 : kFlagNoHalfClose));
  request.size = connection.unit;
  request.bytes = is_stream(connection.role) ? plan_.bytes : 0;
  request.seed = connection.seed;
  std::memcpy(send_buffer_.data(), &request, sizeof(request));
  size_t payload = 0;
  if (churns()) {
    connection.send_goal = connection.receive_goal = connection.unit;
    payload = std::min<uint64_t>(connection.unit, send_buffer_.size() - sizeof(request));
    if (plan_.verify) {
      fill_pattern(up_seed(connection.seed), 0, {send_buffer_.data() + sizeof(request), payload});
    }
  }
  set_state(connection, churns() ? State::kExchanging : State::kGreeting);
  const Transfer transfer =
      send_some(connection.fd.get(), send_buffer_.data(), sizeof(request) + payload);
  const bool blocked = transfer.status == Transfer::Status::kWouldBlock;
  if (blocked || (transfer.moved() && transfer.bytes < sizeof(request))) {
    fail(connection, Outcome::kLost, "a new connection did not take the request");
    return;
  }
  if (!settle(connection, transfer, "sending its request")) return;
  connection.sent = transfer.bytes - sizeof(request);
  if (connection.readable || connection.may_send()) enqueue(connection);
}

void Client::receive_greeting(Connection& connection) {
  const size_t asked = sizeof(kGreetingWord) - connection.greeting_have;
  const Transfer transfer = receive_some(connection.fd.get(), receive_buffer_.data(), asked);
  if (!settle(connection, transfer, "waiting for the sink's greeting")) return;
  const auto* expected =
      reinterpret_cast<const std::byte*>(&kGreetingWord) + connection.greeting_have;
  if (std::memcmp(receive_buffer_.data(), expected, transfer.bytes) != 0) {
    fail(connection, Outcome::kCorrupted, "the sink's greeting came back wrong");
    return;
  }
  connection.greeting_have += transfer.bytes;
  if (connection.greeting_have < sizeof(kGreetingWord)) return;
  connection.readable = connection.hangup;
  set_state(connection, State::kParked);
  state_.counters.connections.add(1);
  if (plan_.mode == Mode::kIdle) {
    start_exchange(connection, 0);
  } else {
    ++opened_;
    count_opened();
  }
}

// Lets the sink's stream begin.
bool Client::send_go(Connection& connection) {
  if (send_some(connection.fd.get(), &kGo, sizeof(kGo)).moved()) return true;
  fail(connection, Outcome::kLost, "a connection did not take its first byte");
  return false;
}

void Client::check_parked(Connection& connection) {
  connection.readable = false;
  if (!connection.fd.valid()) return;
  const Transfer transfer = receive_some(connection.fd.get(), receive_buffer_.data(), 1);
  if (transfer.moved()) {
    fail(connection, Outcome::kCorrupted, "a byte arrived that nobody had sent");
  } else {
    settle(connection, transfer, "idle");
  }
}

void Client::start_exchange(Connection& connection, int64_t due) {
  connection.due = due;
  if (churns()) {
    begin_connect(connection);
    return;
  }
  set_state(connection, State::kExchanging);
  connection.send_goal = connection.sent + connection.unit;
  connection.receive_goal = connection.received + connection.unit;
  send_payload(connection);
  if (connection.may_send() && connection.writable) enqueue(connection);
}

void Client::step_exchange(Connection& connection) {
  if (connection.may_send() && connection.writable) send_payload(connection);
  if (connection.readable && connection.state == State::kExchanging) receive_answer(connection);
}

void Client::receive_answer(Connection& connection) {
  const size_t asked =
      std::min<uint64_t>(receive_buffer_.size(), connection.receive_goal - connection.received);
  const Transfer transfer = receive_some(connection.fd.get(), receive_buffer_.data(), asked);
  if (!settle(connection, transfer, "waiting for an answer")) return;
  verify(connection, connection.received, transfer.bytes);
  connection.received += transfer.bytes;
  state_.counters.exchange_bytes.add(transfer.bytes);
  if (connection.first_mismatch != UINT64_MAX) {
    fail(connection, Outcome::kCorrupted,
         fmt::format("wrong byte in an exchange, found at offset {} of the answers",
                     connection.first_mismatch));
  } else if (connection.received < connection.receive_goal) {
    note_drained(connection, transfer.bytes, asked);
  } else if (churns()) {
    set_state(connection, State::kEnding);
    await_close(connection);
  } else {
    // The answer was all there can be; an end of stream would come with an event of its own.
    connection.readable = connection.hangup;
    complete_exchange(connection);
  }
}

void Client::complete_exchange(Connection& connection) {
  state_.counters.exchanges.add(1);
  if (plan_.mode == Mode::kIdle) {
    set_state(connection, State::kParked);
    if (draining()) {
      finish(connection);
    } else {
      ++opened_;
      count_opened();
    }
    return;
  }
  if (phase_ == Phase::kMeasure) {
    latency_.record(static_cast<uint64_t>(std::max<int64_t>(now_ns() - connection.due, 0)));
  }
  release(connection);
}

void Client::await_close(Connection& connection) {
  const Transfer transfer = receive_some(connection.fd.get(), receive_buffer_.data(), 1);
  if (transfer.moved()) {
    fail(connection, Outcome::kCorrupted, "a byte arrived that nobody had sent");
  } else if (transfer.status == Transfer::Status::kEnd) {
    connection.rewind();
    set_state(connection, State::kParked);
    state_.counters.connections.add(1);
    complete_exchange(connection);
  } else {
    settle(connection, transfer, "waiting for the end of stream");
  }
}

void Client::step_stream(Connection& connection) {
  if (connection.may_send() && connection.writable) {
    send_payload(connection);
    const bool paced = pacer_.paced() && plan_.exchange_count() == 0;
    if (paced && !connection.may_send() && !draining() && connection.state == State::kStreaming) {
      parked_.push(&connection);
    }
  }
  close_writing_when_due(connection);
  if (connection.readable && connection.fd.valid()) receive_stream(connection);
}

void Client::send_payload(Connection& connection) {
  const uint64_t unit_left = connection.unit - connection.sent % connection.unit;
  const size_t size = std::min({static_cast<uint64_t>(send_buffer_.size()), unit_left,
                                connection.send_goal - connection.sent});
  if (plan_.verify) {
    fill_pattern(up_seed(connection.seed), connection.sent, {send_buffer_.data(), size});
  }
  const Transfer transfer = send_some(connection.fd.get(), send_buffer_.data(), size);
  if (transfer.status == Transfer::Status::kWouldBlock) {
    connection.writable = false;
    if (!connection.asks_writable) {
      connection.asks_writable = true;
      poller_.modify(connection.fd.get(), &connection, Poller::kReadWrite);
    }
    return;
  }
  if (!settle(connection, transfer, "sending")) return;
  connection.sent += transfer.bytes;
  if (is_stream(connection.role)) {
    state_.counters.stream_sent.add(transfer.bytes);
  } else {
    state_.counters.exchange_bytes.add(transfer.bytes);
  }
}

void Client::close_writing_when_due(Connection& connection) {
  if (connection.state != State::kStreaming || connection.may_send()) return;
  const bool complete = plan_.bytes == 0            ? draining()
                        : sends_up(connection.role) ? connection.sent == plan_.bytes
                                                    : connection.received == plan_.bytes;
  if (!complete || connection.write_closed) return;
  if (!plan_.half_close) return;
  connection.write_closed = true;
  if (::shutdown(connection.fd.get(), SHUT_WR) != 0) {
    fail(connection, Outcome::kLost, fmt::format("shutdown: {}", std::strerror(errno)));
  } else if (reads_tail(connection)) {
    set_state(connection, State::kEnding);
  }
}

// Whether what arrives from now on includes the trailer.
bool Client::reads_tail(const Connection& connection) const {
  if (!sends_down(connection.role)) return true;
  if (plan_.bytes != 0) return connection.received >= plan_.bytes;
  return connection.write_closed;
}

void Client::receive_stream(Connection& connection) {
  const bool tail = reads_tail(connection);
  size_t asked = receive_buffer_.size();
  if (!tail && plan_.bytes != 0) {
    asked = std::min<uint64_t>(asked, plan_.bytes - connection.received);
  }
  const bool discard = !tail && !plan_.verify && !address_of(connection).is_unix();
  const int fd = connection.fd.get();
  const Transfer transfer = discard ? discard_some(fd, receive_buffer_.data(), asked)
                                    : receive_some(fd, receive_buffer_.data(), asked);
  if (tail && transfer.status == Transfer::Status::kEnd) {
    complete_stream(connection);
    return;
  }
  if (!settle(connection, transfer, "streaming")) return;
  note_drained(connection, transfer.bytes, asked);
  if (sends_down(connection.role)) state_.counters.stream_received.add(transfer.bytes);
  if (tail) {
    if (sends_down(connection.role)) {
      verify(connection, connection.received + connection.tail_total, transfer.bytes);
    }
    connection.keep_tail(receive_buffer_.data(), transfer.bytes);
    return;
  }
  verify(connection, connection.received, transfer.bytes);
  connection.received += transfer.bytes;
  if (connection.first_mismatch != UINT64_MAX) {
    fail(connection, Outcome::kCorrupted,
         fmt::format("wrong byte at offset {} of a stream down", connection.first_mismatch));
  } else if (plan_.bytes != 0 && connection.received == plan_.bytes) {
    if (connection.write_closed) set_state(connection, State::kEnding);
    connection.readable = true;  // the trailer may have come along
    close_writing_when_due(connection);
  }
}

// The sink has closed: its trailer must agree with what was sent and received.
void Client::complete_stream(Connection& connection) {
  const size_t expected = trailer_size(connection.role);
  const bool down = sends_down(connection.role);
  const bool over = connection.write_closed || (!plan_.half_close && plan_.bytes != 0);
  if (!over || connection.tail_total < expected) {
    fail(connection, Outcome::kLost, "a stream ended before the sink confirmed its bytes");
    return;
  }
  Trailer trailer;
  std::memcpy(&trailer, connection.tail.data() + connection.tail.size() - expected, expected);
  const uint64_t payload = connection.received + connection.tail_total - expected;
  const uint64_t arrived = trailer.received & ~Trailer::kCorrupted;
  if ((trailer.received & Trailer::kCorrupted) != 0) {
    fail(connection, Outcome::kCorrupted, "the sink received a wrong byte");
  } else if (arrived != connection.sent) {
    fail(connection, Outcome::kCorrupted,
         fmt::format("{} bytes were sent up but {} arrived", connection.sent, arrived));
  } else if (down ? trailer.sent != payload : payload != 0) {
    fail(connection, Outcome::kCorrupted,
         fmt::format("{} bytes were sent down but {} arrived", trailer.sent, payload));
  } else if (connection.first_mismatch < payload) {
    fail(connection, Outcome::kCorrupted,
         fmt::format("wrong byte at offset {} of a stream down", connection.first_mismatch));
  } else {
    finish(connection);
  }
}

// True when bytes moved. Otherwise notes that the socket would block, or fails the connection.
bool Client::settle(Connection& connection, const Transfer& transfer, std::string_view during) {
  if (transfer.moved()) return true;
  if (transfer.status == Transfer::Status::kWouldBlock) {
    connection.readable = false;
    return false;
  }
  const char* reason = transfer.status == Transfer::Status::kEnd ? "unexpected end of stream"
                                                                 : std::strerror(transfer.error);
  fail(connection, Outcome::kLost, fmt::format("connection lost while {}: {}", during, reason));
  return false;
}

void Client::note_drained(Connection& connection, size_t moved, size_t asked) {
  if (moved < asked && !connection.hangup) connection.readable = false;
}

void Client::verify(Connection& connection, uint64_t position, size_t size) {
  if (!plan_.verify || connection.first_mismatch != UINT64_MAX) return;
  const size_t index =
      find_mismatch(down_seed(connection.seed), position, {receive_buffer_.data(), size});
  if (index != size) connection.first_mismatch = position + index;
}

}  // namespace virtproxy::bench
