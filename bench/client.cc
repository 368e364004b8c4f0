#include "client.h"

#include <fmt/format.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "pattern.h"

namespace virtproxy::bench {
namespace {

constexpr size_t kOpeningAtOnce = 128;
constexpr int64_t kRetryInterval = kMillisecond;
constexpr size_t kLargestSend = 1024 * 1024;

bool is_active(Connection::State state) {
  return state != Connection::State::kUnopened && state != Connection::State::kParked &&
         state != Connection::State::kDone;
}

}  // namespace

Client::Client(const Plan& plan, RunState& state, const Counters* sink)
    : plan_(plan),
      state_(state),
      sink_(sink),
      pacer_(plan.rate),
      connections_(plan.stream_count() + plan.exchange_count()),
      receive_buffer_(kReceiveBuffer),
      send_buffer_(sizeof(Request) +
                   std::min<uint64_t>(kLargestSend, std::max(plan.chunk, plan.size))) {
  for (size_t i = 0; i < connections_.size(); ++i) {
    Connection& connection = connections_[i];
    const bool stream = i < plan.stream_count();
    connection.role = stream ? plan.direction : churns() ? Role::kExchangeOnce : Role::kExchange;
    connection.unit = stream ? plan.stream_unit() : plan.size;
    connection.seed = mix_seed(plan.seed + i);
  }
}

void Client::run() {
  ::prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
  connect_deadline_ = now_ns() + static_cast<int64_t>(plan_.wait * static_cast<double>(kSecond));
  if (churns()) {
    for (Connection& connection : connections_) connection.state = State::kParked;
    opened_ = opening_ = connections_.size();
    count_opened();
  }
  while (done_ < connections_.size()) {
    follow_phase();
    if (phase_ == Phase::kAbort) break;
    open_more();
    retry_connects();
    dispatch_arrivals();
    close_drained_streams();
    state_.waiting_for.set(active_);
    for (const epoll_event& event : poller_.wait(next_timeout())) {
      if (event.data.ptr != nullptr) {
        handle_event(*static_cast<Connection*>(event.data.ptr), event.events);
      }
    }
    for (size_t left = std::min(runnable_.size(), kStepsPerPoll); left > 0; --left) {
      Connection& connection = *runnable_.pop();
      connection.queued = false;
      step(connection);
      if (connection.readable || (connection.writable && connection.may_send())) {
        enqueue(connection);
      }
    }
  }
  for (Connection& connection : connections_) {
    if (phase_ == Phase::kMeasure) {
      connection.moved_in_window = connection.moved() - connection.moved_at_start;
    }
  }
  state_.finished.store(true);
  state_.notify();
}

void Client::follow_phase() {
  const Phase target = state_.phase.load(std::memory_order_acquire);
  if (target == Phase::kAbort) phase_ = target;
  while (phase_ < target) {
    phase_ = static_cast<Phase>(static_cast<int>(phase_) + 1);
    if (phase_ == Phase::kWarmup) begin_load();
    if (phase_ == Phase::kMeasure) {
      for (Connection& connection : connections_) connection.moved_at_start = connection.moved();
    }
    if (phase_ == Phase::kDrain) end_load();
  }
}

void Client::begin_load() {
  const int64_t now = now_ns();
  pacer_.start(now);
  const bool paces_streams = pacer_.paced() && plan_.exchange_count() == 0;
  for (Connection& connection : connections_) {
    if (connection.state != State::kParked || plan_.mode == Mode::kIdle) continue;
    if (!is_stream(connection.role)) {
      release(connection);
      continue;
    }
    if (sends_up(connection.role) && !paces_streams) {
      connection.send_goal = plan_.bytes != 0 ? plan_.bytes : UINT64_MAX;
    }
    set_state(connection, State::kStreaming);
    if (sends_down(connection.role) && !send_go(connection)) continue;
    if (paces_streams) parked_.push(&connection);
    enqueue(connection);
  }
}

void Client::end_load() {
  backlog_ = pacer_.backlog(now_ns());
  for (Connection& connection : connections_) {
    connection.moved_in_window = connection.moved() - connection.moved_at_start;
    if (connection.state == State::kParked) {
      if (plan_.mode == Mode::kIdle) {
        start_exchange(connection, 0);
      } else {
        finish(connection);
      }
    } else if (connection.state == State::kStreaming && plan_.bytes == 0) {
      // A write that is under way is completed, so that the sink counts whole messages.
      const uint64_t units = (connection.sent + connection.unit - 1) / connection.unit;
      connection.send_goal = units * connection.unit;
      enqueue(connection);
    }
  }
}

// A connection with no exchange under way takes the next one, at once when the load is closed.
void Client::release(Connection& connection) {
  const bool quota_met = plan_.bytes != 0 && connection.sent >= plan_.bytes;
  if (draining() || quota_met) {
    finish(connection);
  } else if (pacer_.paced()) {
    set_state(connection, State::kParked);
    parked_.push(&connection);
  } else {
    start_exchange(connection, now_ns());
  }
}

void Client::dispatch_arrivals() {
  if (!pacer_.paced() || parked_.empty() || draining()) return;
  const int64_t now = now_ns();
  while (!parked_.empty()) {
    const auto due = pacer_.take(now);
    if (!due) return;
    Connection& connection = *parked_.pop();
    if (connection.state == State::kDone) continue;
    if (is_stream(connection.role)) {
      connection.send_goal += connection.unit;
      enqueue(connection);
    } else {
      start_exchange(connection, *due);
    }
  }
}

void Client::retry_connects() {
  if (retries_.empty() || now_ns() < retry_at_) return;
  for (size_t left = retries_.size(); left > 0; --left) begin_connect(*retries_.pop());
}

// Without half-close a stream up is over when the sink of this process has seen every byte; with a
// sink elsewhere, and for streams down, there is nothing to wait for.
void Client::close_drained_streams() {
  if (plan_.half_close || plan_.bytes != 0 || !draining()) return;
  for (const Connection& connection : connections_) {
    if (connection.state == State::kStreaming && connection.may_send()) return;
  }
  if (sink_ != nullptr && sink_->stream_received.get() < state_.counters.stream_sent.get()) return;
  for (Connection& connection : connections_) {
    if (connection.state == State::kStreaming) finish(connection);
  }
}

int64_t Client::next_timeout() const {
  if (!runnable_.empty() || done_ == connections_.size()) return 0;
  if (!retries_.empty()) return kRetryInterval;
  if (draining()) return !plan_.half_close && plan_.bytes == 0 ? kMillisecond : -1;
  if (pacer_.paced() && !parked_.empty()) return std::max<int64_t>(pacer_.next() - now_ns(), 0);
  return -1;
}

void Client::open_more() {
  while (opening_ < connections_.size() && opening_ - opened_ < kOpeningAtOnce) {
    begin_connect(connections_[opening_++]);
  }
}

const Address& Client::address_of(const Connection& connection) const {
  return plan_
      .connect[static_cast<size_t>(&connection - connections_.data()) % plan_.connect.size()];
}

void Client::begin_connect(Connection& connection) {
  if (connection.state == State::kDone) return;
  connection.rewind();
  set_state(connection, State::kConnecting);
  const Address& to = address_of(connection);
  connection.fd = open_socket(to, plan_.sockets);
  if (!connection.fd.valid()) {
    connect_failed(connection, errno);
    return;
  }
  const int status = ::connect(connection.fd.get(), to.data(), to.length);
  if (status == 0) {
    connection.writable = true;
    poller_.add(connection.fd.get(), &connection, Poller::kRead);
    greet(connection);
  } else if (errno == EINPROGRESS) {
    connection.asks_writable = true;
    poller_.add(connection.fd.get(), &connection, Poller::kReadWrite);
  } else {
    connect_failed(connection, errno);
  }
}

void Client::connect_failed(Connection& connection, int error) {
  // A unix listener's full backlog says EAGAIN; ports in TIME_WAIT become free again.
  const bool busy = error == EAGAIN || (churns() && error == EADDRNOTAVAIL);
  const bool absent = error == ECONNREFUSED || error == ENOENT;
  if (busy || (absent && now_ns() < connect_deadline_)) {
    connection.fd.reset();
    retry_at_ = now_ns() + kRetryInterval;
    retries_.push(&connection);
    return;
  }
  fail(connection, Outcome::kConnectFailed,
       fmt::format("cannot connect to {}: {}", address_of(connection).text, std::strerror(error)));
}

void Client::count_opened() {
  if (opened_ < connections_.size()) return;
  state_.opened.store(true, std::memory_order_release);
  state_.notify();
}

void Client::handle_event(Connection& connection, uint32_t events) {
  const bool ended = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
  if (ended || (events & EPOLLIN) != 0) connection.readable = true;
  if (ended) connection.hangup = true;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) connection.writable = true;
  enqueue(connection);
}

void Client::enqueue(Connection& connection) {
  if (connection.queued || connection.state == State::kDone) return;
  connection.queued = true;
  runnable_.push(&connection);
}

void Client::set_state(Connection& connection, State state) {
  active_ -= is_active(connection.state) ? 1 : 0;
  active_ += is_active(state) ? 1 : 0;
  connection.state = state;
}

void Client::finish(Connection& connection) {
  if (connection.state == State::kDone) return;
  set_state(connection, State::kDone);
  connection.fd.reset();
  connection.readable = connection.writable = false;
  ++done_;
  state_.closed.set(done_);
}

void Client::fail(Connection& connection, Outcome outcome, std::string_view text) {
  if (connection.state == State::kDone) return;
  finish(connection);
  state_.fail(outcome, std::string(text));
}

std::string Client::describe_stuck() const {
  constexpr std::array<const char*, 8> kWaits = {"",
                                                 "for a connection",
                                                 "for the sink's greeting",
                                                 "",
                                                 "for an answer",
                                                 "in mid-stream",
                                                 "for the sink's final count",
                                                 ""};
  std::array<size_t, kWaits.size()> counts{};
  for (const Connection& connection : connections_) ++counts[static_cast<size_t>(connection.state)];
  std::string text;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] == 0 || *kWaits[i] == '\0') continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", counts[i], kWaits[i]);
  }
  return text;
}

}  // namespace virtproxy::bench
