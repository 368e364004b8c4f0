#include "uring/service/logs/datagram_sink.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "uring/base/log.h"
#include "uring/net/sockets.h"

namespace virtproxy {
namespace {

// Of a turn, before other sinks have theirs.
constexpr unsigned kMostOfTurn = 512;

}  // namespace

void DatagramSink::start(Loop& loop, ResolverDriver&, LogSink::Client* client) {
  loop_ = &loop;
  client_ = client;
  Timer::Owner* const owner = this;
  retry_ = std::make_unique<Timer>(loop.timers(), owner);
  pause_ = std::make_unique<Timer>(loop.timers(), owner);
  check_ = std::make_unique<Timer>(loop.timers(), owner);
  connect();
}

// A new socket in `into`. Returns 0, or an errno.
int DatagramSink::connect_socket(UniqueFd& into) const {
  const auto address = to_socket_address(spec_.address);
  if (!address) return EINVAL;
  into.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!into) return errno;
  return ::connect(into.get(), address->data(), address->length) == 0 ? 0 : errno;
}

DatagramSink::ReceiverFile DatagramSink::receiver_file() const {
  struct stat status {};
  if (spec_.address.host.starts_with('@') || stat(spec_.address.host.c_str(), &status) != 0)
    return {};
  return {status.st_dev, status.st_ino,
          // Of a socket nothing changes it.
          int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec};
}

void DatagramSink::connect() {
  // Before it is connected to: one that is replaced in between is taken for a new one later.
  receiver_ = receiver_file();
  if (const int error = connect_socket(socket_)) return lose(error);
  if (std::exchange(reported_, 0) != 0) log_info("{}: connected", spec_.label());
  counters().up = true;
  flush();
}

// What was in the socket went with the receiver, and is not known to be read.
void DatagramSink::lose(int error) {
  if (std::exchange(reported_, error) != error) {
    log_warn("{}: {}: trying again", spec_.label(), std::strerror(error));
  }
  counters().up = false;
  counters().failures.fetch_add(1, std::memory_order_relaxed);
  parcels_.rewind();
  check_->clear();
  pause_->clear();
  if (poll_.pending) loop_->driver().cancel(poll_);
  back_off(*retry_);
}

void DatagramSink::back_off(Timer& timer) {
  backoff_ = next_sink_backoff(backoff_);
  timer.set(loop_->now() + backoff_);
}

void DatagramSink::flush() {
  if (stopped_ || poll_.pending || retry_->armed() || pause_->armed()) return;
  for (unsigned sent = 0; parcels_.has_unsent() && sent < kMostOfTurn; ++sent) {
    const std::string& message = parcels_.unsent();
    const ssize_t done = ::send(socket_.get(), message.data(), message.size(), MSG_NOSIGNAL);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && errno == EAGAIN) {
      loop_->driver().poll(poll_, {socket_.get(), -1}, POLLOUT);
      break;
    }
    if (done < 0 && is_out_of_memory(errno)) {
      back_off(*pause_);
      break;
    }
    if (done < 0 && errno == EMSGSIZE) {
      if (parcels_.refuse(parcels_.sent())) {
        counters().rejected.fetch_add(1, std::memory_order_relaxed);
        log_warn("{}: a line of {} bytes is larger than the socket takes: it is refused for good",
                 spec_.label(), message.size());
      }
    } else if (done < 0) {
      return lose(errno);
    } else {
      counters().written.fetch_add(message.size(), std::memory_order_relaxed);
    }
    parcels_.mark_sent();
  }
  if (parcels_.has_unsent() && !poll_.pending && !pause_->armed()) client_->sink_progressed();
  if (parcels_.sent() > 0 && !check_->armed()) check_->set(loop_->now() + kUnreadCheck);
}

void DatagramSink::complete(Op&, Outcome) { flush(); }

void DatagramSink::expired(Timer& timer) {
  if (&timer == retry_.get()) return connect();
  if (&timer == pause_.get()) return flush();
  check();
}

void DatagramSink::check() {
  if (parcels_.sent() == 0) return;
  // What the datagrams take up is counted, not their number: only zero tells.
  if (unacknowledged(socket_.get()) == 0) {
    // The queue of a receiver that is gone is empty as well. The connected socket reports that only
    // when it sends again; a new one cannot be connected, or is connected to the next receiver.
    UniqueFd probe;
    const int error = connect_socket(probe);
    if (error == ECONNREFUSED || error == ENOENT) return lose(error);
    if (error == 0 && receiver_file() != receiver_) return lose(ECONNRESET);
    if (error != 0) return check_->set(loop_->now() + kUnreadCheck);
    backoff_ = Duration::zero();
    parcels_.acknowledge(parcels_.sent());
    client_->sink_progressed();
    return;
  }
  check_->set(loop_->now() + kUnreadCheck);
}

void DatagramSink::stop() {
  stopped_ = true;
  retry_.reset();
  pause_.reset();
  check_.reset();
  if (poll_.pending) loop_->driver().cancel(poll_);
}

}  // namespace virtproxy
