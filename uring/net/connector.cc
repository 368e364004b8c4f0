#include "uring/net/connector.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "uring/net/local_ports.h"
#include "uring/net/sockets.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;

constexpr Duration kFirstBackoff = milliseconds(2);
constexpr Duration kLastBackoff = milliseconds(100);
constexpr Duration kLeastShare = milliseconds(250);

Fault fault_of(int error) {
  switch (error) {
    case ECONNREFUSED:
    case ENOENT:
    case ECONNRESET:
      return Fault::kRefused;
    case ETIMEDOUT:
    case EAGAIN:
      return Fault::kTimedOut;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
      return Fault::kNoResources;
    default:
      return Fault::kUnreachable;
  }
}

// 0 or an errno.
int connect_without_waiting(int fd, const SocketAddress& address) {
  const bool internet = address.family() == AF_INET || address.family() == AF_INET6;
  if (internet) return LocalPorts::of_process().connect(fd, address);
  return connect(fd, address.data(), address.length) == 0 ? 0 : errno;
}

// Where nobody listens on a port that connect(2) may choose as its own, it may choose that one, and the
// socket is then connected to itself: what it sends comes back, and nobody else can listen there.
bool is_its_own_peer(int fd, const SocketAddress& peer) {
  if (peer.family() != AF_INET && peer.family() != AF_INET6) return false;
  SocketAddress own;
  own.length = sizeof own.storage;
  auto* const address = reinterpret_cast<sockaddr*>(&own.storage);
  return getsockname(fd, address, &own.length) == 0 && own.to_string() == peer.to_string();
}

}  // namespace

Connector::Connector(Loop& loop, ResolverDriver& resolver_driver, Client* client)
    : loop_(loop),
      resolver_driver_(resolver_driver),
      client_(client),
      poll_(this),
      deadline_(loop.timers(), this),
      retry_(loop.timers(), this) {}

Connector::~Connector() { cancel(); }

void Connector::start(const Address& address, Duration timeout) {
  addresses_.clear();
  next_address_ = 0;
  last_error_ = 0;
  reason_.clear();
  share_ = timeout;
  deadline_.set(loop_.now() + timeout);
  if (address.needs_resolver()) {
    state_ = State::kResolving;
    lookup_ = resolver_driver_.start(address.host, static_cast<uint16_t>(address.port), this);
    return;
  }
  if (auto known = to_socket_address(address)) {
    addresses_.push_back(*known);
  } else {
    reason_ = known.error();
  }
  try_next();
}

void Connector::resolved(Resolver::Result result) {
  lookup_.reset();
  if (result) {
    addresses_ = std::move(*result);
    share_ = std::max(share_ / static_cast<long>(addresses_.size()), Duration(kLeastShare));
  } else {
    reason_ = result.error();
  }
  try_next();
}

int Connector::take() {
  if (state_ != State::kConnected) return -1;
  deadline_.clear();
  state_ = State::kIdle;
  return std::exchange(fd_, -1);
}

void Connector::cancel() {
  if (lookup_) resolver_driver_.cancel(*lookup_);
  lookup_.reset();
  deadline_.clear();
  retry_.clear();
  close_socket();
  state_ = State::kIdle;
}

void Connector::close_socket() {
  if (fd_ < 0) return;
  if (state_ == State::kInProgress) loop_.driver().cancel(poll_);
  // It may be connected by now, and the service must not take this for an orderly end.
  close_with_reset(fd_);
  fd_ = -1;
  ++attempt_;
}

void Connector::try_next() {
  backoff_ = kFirstBackoff;
  if (next_address_ == addresses_.size()) {
    // Reported in the next turn, because the client may be in the middle of its call of start().
    state_ = State::kFailed;
    deadline_.set(loop_.now());
    return;
  }
  attempt();
}

void Connector::attempt() {
  const SocketAddress& address = addresses_[next_address_];
  if (fd_ < 0) {
    fd_ = socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd_ < 0) return attempt_failed(errno);
    if (address.family() != AF_UNIX) reset_on_close(fd_);
  }
  const int error = connect_without_waiting(fd_, address);
  if (error == 0) {
    state_ = State::kConnected;
    deadline_.set(loop_.now());
    return;
  }
  if (error == EINPROGRESS) {
    retry_.set(loop_.now() + share_);
    state_ = State::kInProgress;
    await_connection();
    return;
  }
  if (error == EAGAIN && address.family() == AF_UNIX) {
    last_error_ = EAGAIN;
    state_ = State::kBacklogFull;
    retry_.set(loop_.now() + backoff_);
    backoff_ = std::min(backoff_ * 2, Duration(kLastBackoff));
    return;
  }
  attempt_failed(error);
}

void Connector::await_connection() {
  if (poll_.pending) return;  // of an attempt that was given up; its completion comes back here
  polled_ = attempt_;
  loop_.driver().poll(poll_, {fd_, -1}, POLLOUT);
}

void Connector::attempt_failed(int error) {
  retry_.clear();
  last_error_ = error;
  reason_ = addresses_[next_address_].to_string() + ": " + std::strerror(error);
  close_socket();
  ++next_address_;
  try_next();
}

void Connector::complete(Op&, Outcome outcome) {
  const int result = outcome.result;
  if (state_ == State::kIdle) return client_->connector_settled();
  if (polled_ != attempt_) {
    if (state_ == State::kInProgress) await_connection();
    return;
  }
  int error = 0;
  socklen_t size = sizeof error;
  if (result < 0) {
    error = -result;
  } else if (getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
    error = errno;
  }
  if (error == 0 && is_its_own_peer(fd_, addresses_[next_address_])) error = ECONNREFUSED;
  if (error != 0) return attempt_failed(error);
  state_ = State::kConnected;
  ++attempt_;
  conclude();
}

void Connector::expired(Timer& timer) {
  if (&timer == &retry_) {
    return state_ == State::kInProgress ? attempt_failed(ETIMEDOUT) : attempt();
  }
  conclude();
}

std::string Connector::reason_of_failure() const {
  if (state_ == State::kFailed) return reason_;
  if (state_ == State::kResolving) return "no answer in time from the resolver";
  return addresses_[next_address_].to_string() + ": no answer in time";
}

void Connector::conclude() {
  deadline_.clear();
  retry_.clear();
  if (state_ == State::kConnected) {
    state_ = State::kIdle;
    client_->connected(std::exchange(fd_, -1));
    return;
  }
  const int error = state_ == State::kFailed ? last_error_ : ETIMEDOUT;
  const std::string reason = reason_of_failure();
  cancel();
  client_->connect_failed(fault_of(error), reason);
}

}  // namespace virtproxy
