#include "uring/service/logs/sink_link.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "uring/base/log.h"
#include "uring/net/sockets.h"
#include "uring/service/logs/log_sink.h"

namespace virtproxy {
namespace {

// Of a connection that is given up: more than the answers to all that a sink has under way. A peer
// that goes on sending is not listened to for longer.
constexpr size_t kMostRest = 4u << 20;

}  // namespace

SinkLink::SinkLink(Loop& loop, ResolverDriver& resolver, const Address& address, std::string name,
                   Client* client)
    : loop_(loop),
      address_(address),
      name_(std::move(name)),
      client_(client),
      connector_(loop, resolver, this),
      timer_(loop.timers(), this),
      receive_op_(this),
      send_op_(this) {}

void SinkLink::start() {
  state_ = State::kConnecting;
  connector_.start(address_, kConnectTimeout);
}

void SinkLink::connected(int fd) {
  fd_ = fd;
  if (address_.kind == Address::Kind::kTcp) prepare_tcp(fd);
  state_ = State::kUp;
  await(receive_op_, POLLIN);
  if (!std::exchange(reported_, {}).empty()) log_info("{}: connected", name_);
  client_->link_up();
}

void SinkLink::connect_failed(Fault, const std::string& reason) {
  if (state_ == State::kStopped) return;
  if (reported_ != reason) log_warn("{}: {}: trying again", name_, reason);
  reported_ = reason;
  retry_later();
}

void SinkLink::retry_later() {
  state_ = State::kDown;
  backoff_ = next_sink_backoff(backoff_);
  timer_.set(loop_.now() + backoff_);
}

void SinkLink::expired(Timer&) { state_ == State::kUp ? send() : start(); }

void SinkLink::await(Op& op, uint32_t events) {
  (&op == &receive_op_ ? receive_waits_ : send_waits_) = true;
  loop_.driver().poll(op, {fd_, -1}, events);
}

void SinkLink::flush() {
  if (state_ != State::kUp || !sending_.empty() || out_.empty()) return;
  sending_.swap(out_);
  out_.clear();
  sent_ = 0;
  send();
}

void SinkLink::send() {
  loop_.driver().send(send_op_, {fd_, -1}, sending_.data() + sent_, sending_.size() - sent_,
                      SendMode::kNow);
}

void SinkLink::complete(Op& op, Outcome outcome) {
  if (state_ == State::kBroken) {
    // The receive that was under way comes before what is still in the socket.
    if (&op != &receive_op_) return;
    if (!std::exchange(receive_waits_, false) && outcome.result > 0) {
      client_->link_received({input_.data(), static_cast<size_t>(outcome.result)});
    }
    return receive_rest();
  }
  if (state_ != State::kUp) return settle();
  if (&op == &receive_op_) {
    if (!std::exchange(receive_waits_, false)) return received(outcome.result);
    loop_.driver().recv(receive_op_, {fd_, -1}, input_.data(), input_.size(), false);
  } else {
    if (!std::exchange(send_waits_, false)) return sent(outcome.result);
    send();
  }
}

void SinkLink::received(int result) {
  if (result == -EAGAIN || result == -EINTR) return await(receive_op_, POLLIN);
  if (result <= 0) {
    return reset(result == 0 ? "closed by the other end" : std::strerror(-result));
  }
  client_->link_received({input_.data(), static_cast<size_t>(result)});
  if (state_ == State::kUp) await(receive_op_, POLLIN);
}

void SinkLink::give_up(const std::string& reason) {
  if (state_ != State::kUp) return;
  state_ = State::kBroken;
  broken_by_ = reason;
  timer_.clear();
  if (!receive_op_.pending || receive_waits_) receive_rest();
}

void SinkLink::receive_rest() {
  for (size_t rest = 0; state_ == State::kBroken && rest < kMostRest;) {
    const ssize_t got = ::recv(fd_, input_.data(), input_.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    rest += static_cast<size_t>(got);
    client_->link_received({input_.data(), static_cast<size_t>(got)});
  }
  reset(broken_by_);
}

void SinkLink::sent(int result) {
  if (result == -EAGAIN || result == -EINTR) return await(send_op_, POLLOUT);
  if (is_out_of_memory(-result)) {
    pause_ = next_sink_backoff(pause_);
    return timer_.set(loop_.now() + pause_);
  }
  if (result < 0) return give_up(std::strerror(-result));
  pause_ = Duration::zero();
  sent_ += static_cast<size_t>(result);
  if (sent_ < sending_.size()) return await(send_op_, POLLOUT);
  sending_.clear();
  sent_ = 0;
  if (out_.empty()) return client_->link_sent();
  flush();
}

void SinkLink::reset(const std::string& reason) {
  if (!receives()) return;
  log_warn("{}: {}: connecting again", name_, reason);
  reported_ = reason;
  state_ = State::kClosing;
  timer_.clear();
  pause_ = Duration::zero();
  for (Op* const op : {&receive_op_, &send_op_}) {
    if (op->pending) loop_.driver().cancel(*op);
  }
  client_->link_down();
  settle();
}

// The kernel may still read or write the buffers of what was cancelled.
void SinkLink::settle() {
  if (receive_op_.pending || send_op_.pending) return;
  receive_waits_ = send_waits_ = false;
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  out_.clear();
  sending_.clear();
  sent_ = 0;
  if (state_ == State::kClosing) retry_later();
}

void SinkLink::stop() {
  const bool was_up = receives();
  state_ = State::kStopped;
  timer_.clear();
  connector_.cancel();
  for (Op* const op : {&receive_op_, &send_op_}) {
    if (op->pending) loop_.driver().cancel(*op);
  }
  if (was_up) client_->link_down();
  settle();
}

bool SinkLink::idle() const {
  return state_ == State::kStopped && connector_.idle() && !receive_op_.pending &&
         !send_op_.pending;
}

}  // namespace virtproxy
