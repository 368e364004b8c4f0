// What the epoll driver tries for each kind of request, with calls that do not wait.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "uring/base/clock.h"
#include "uring/io/epoll_driver.h"

namespace virtproxy {
namespace {

// Of one listener in a turn.
constexpr unsigned kMostAccepted = 16;

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

// The call, again for as long as a signal interrupts it.
template <typename Call>
ssize_t retried(Call call) {
  for (;;) {
    const ssize_t result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

}  // namespace

EpollDriver::Attempt EpollDriver::attempt(uint32_t index) {
  Request& tried = requests_[index];
  switch (tried.kind) {
    case Kind::kRecv:
      return receive(tried);
    case Kind::kRecvProvided:
      return receive_provided(tried);
    case Kind::kRead:
      return read_some(tried);
    case Kind::kWrite:
      return write_some(tried);
    case Kind::kSend:
    case Kind::kSendMessage:
      return send_some(tried);
    case Kind::kPoll:
      return poll_once(tried);
    case Kind::kHangup:
      return poll_for_hangup(tried);
    case Kind::kAccept:
      return accept_some(tried);
    case Kind::kReadAt:
    case Kind::kWriteAt:
    case Kind::kSyncData:
      return use_file(tried);
  }
  return Attempt::kWaits;
}

bool EpollDriver::is_device(const Request& tried) const {
  return tried.file.index >= 0 && slots_[static_cast<size_t>(tried.file.index)].device;
}

EpollDriver::Attempt EpollDriver::receive(Request& tried) {
  const ssize_t got =
      retried([&] { return ::recv(tried.file.fd, tried.data, tried.size, MSG_DONTWAIT); });
  if (got < 0 && would_block(errno)) {
    found_nothing(tried);
    return Attempt::kWaits;
  }
  if (got > 0) received(tried, static_cast<size_t>(got));
  finish(tried, got < 0 ? -errno : static_cast<int>(got));
  return Attempt::kOver;
}

EpollDriver::Attempt EpollDriver::receive_provided(Request& tried) {
  std::vector<OfferedBuffer>& group = groups_[tried.group];
  if (group.empty()) {
    finish(tried, -ENOBUFS);
    return Attempt::kOver;
  }
  const OfferedBuffer buffer = group.back();
  const size_t size = std::min<size_t>(tried.size, buffer.size);
  const ssize_t got =
      retried([&] { return ::recv(tried.file.fd, buffer.data, size, MSG_DONTWAIT); });
  if (got < 0 && would_block(errno)) {
    found_nothing(tried);
    return Attempt::kWaits;
  }
  if (got <= 0) {
    finish(tried, got < 0 ? -errno : 0);
  } else {
    group.pop_back();
    finish(tried, static_cast<int>(got), buffer.id);
  }
  return Attempt::kOver;
}

// A device is asked again by its owner, who looks after lost wake-ups.
EpollDriver::Attempt EpollDriver::read_some(Request& tried) {
  const ssize_t got = retried([&] { return ::read(tried.file.fd, tried.data, tried.size); });
  if (got < 0 && would_block(errno) && !is_device(tried)) return Attempt::kWaits;
  finish(tried, got < 0 ? -errno : static_cast<int>(got));
  return Attempt::kOver;
}

EpollDriver::Attempt EpollDriver::write_some(Request& tried) {
  const ssize_t put = retried([&] { return ::write(tried.file.fd, tried.data, tried.size); });
  if (put < 0 && would_block(errno) && !is_device(tried)) return Attempt::kWaits;
  finish(tried, put < 0 ? -errno : static_cast<int>(put));
  return Attempt::kOver;
}

// A file is always ready, and has no call that would not wait for the disk: the turn does.
EpollDriver::Attempt EpollDriver::use_file(Request& tried) {
  const auto offset = static_cast<off_t>(tried.offset);
  const Instant begun = monotonic_now();
  const ssize_t done = retried([&]() -> ssize_t {
    if (tried.kind == Kind::kReadAt) return ::pread(tried.file.fd, tried.data, tried.size, offset);
    if (tried.kind == Kind::kWriteAt) {
      return ::pwrite(tried.file.fd, tried.data, tried.size, offset);
    }
    return ::fdatasync(tried.file.fd);
  });
  file_time_ += monotonic_now() - begun;
  finish(tried, done < 0 ? -errno : static_cast<int>(done));
  return Attempt::kOver;
}

EpollDriver::Attempt EpollDriver::send_some(Request& tried) {
  constexpr int flags = MSG_DONTWAIT | MSG_NOSIGNAL;
  for (;;) {
    const ssize_t sent = retried([&] {
      if (tried.kind == Kind::kSend) {
        return ::send(tried.file.fd, static_cast<const std::byte*>(tried.data) + tried.done,
                      tried.size - tried.done, flags);
      }
      if (tried.message != nullptr) return ::sendmsg(tried.file.fd, tried.message, flags);
      msghdr message{};
      message.msg_iov = tried.rest.data();
      message.msg_iovlen = tried.rest.size();
      return ::sendmsg(tried.file.fd, &message, flags);
    });
    const bool waits = sent < 0 && would_block(errno) && tried.mode == SendMode::kAll;
    if (sent < 0 && !waits) {
      finish(tried, tried.done > 0 ? static_cast<int>(tried.done) : -errno);
      return Attempt::kOver;
    }
    tried.done += static_cast<size_t>(std::max<ssize_t>(sent, 0));
    if (!waits && (tried.done == tried.size || tried.mode == SendMode::kNow)) {
      finish(tried, static_cast<int>(tried.done));
      return Attempt::kOver;
    }
    if (tried.kind == Kind::kSendMessage) {
      keep_rest(tried, static_cast<size_t>(std::max<ssize_t>(sent, 0)));
    }
    if (waits) return Attempt::kWaits;
  }
}

// The owner's message is read no more after this wait().
void EpollDriver::keep_rest(Request& tried, size_t sent) {
  if (const msghdr* message = std::exchange(tried.message, nullptr)) {
    tried.rest.assign(message->msg_iov, message->msg_iov + message->msg_iovlen);
  }
  size_t over = 0;
  for (; over < tried.rest.size() && sent >= tried.rest[over].iov_len; ++over) {
    sent -= tried.rest[over].iov_len;
  }
  tried.rest.erase(tried.rest.begin(), tried.rest.begin() + static_cast<ptrdiff_t>(over));
  if (sent == 0) return;
  iovec& first = tried.rest.front();
  first.iov_base = static_cast<std::byte*>(first.iov_base) + sent;
  first.iov_len -= sent;
}

EpollDriver::Attempt EpollDriver::poll_once(Request& tried) {
  pollfd one{tried.file.fd, static_cast<short>(tried.events), 0};
  const ssize_t found = retried([&] { return ::poll(&one, 1, 0); });
  if (found == 0) {
    if (!waits_for_room(tried)) found_nothing(tried);
    return Attempt::kWaits;
  }
  finish(tried, found < 0 ? -errno : (one.revents & POLLNVAL) != 0 ? -EBADF : one.revents);
  return Attempt::kOver;
}

EpollDriver::Attempt EpollDriver::poll_for_hangup(Request& tried) {
  pollfd one{tried.file.fd, 0, 0};
  const ssize_t found = retried([&] { return ::poll(&one, 1, 0); });
  if (found < 0 || (one.revents & POLLNVAL) != 0) {
    finish(tried, found < 0 ? -errno : -EBADF);
    return Attempt::kOver;
  }
  const auto events = static_cast<uint32_t>(one.revents);
  if ((events & ~tried.events) != 0) {
    completed_.push_back({tried.op, {static_cast<int>(events), Outcome::kNoBuffer, true}});
  }
  tried.events |= events;
  return Attempt::kWaits;
}

EpollDriver::Attempt EpollDriver::accept_some(Request& tried) {
  for (unsigned accepted = 0; accepted < kMostAccepted; ++accepted) {
    const auto fd = static_cast<int>(retried(
        [&] { return accept4(tried.file.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC); }));
    if (fd < 0 && would_block(errno)) return Attempt::kWaits;
    if (fd < 0 || !features_.multishot_accept) {
      finish(tried, fd < 0 ? -errno : fd);
      return Attempt::kOver;
    }
    completed_.push_back({tried.op, {fd, Outcome::kNoBuffer, true}});
  }
  tried.state = State::kQueued;
  again_.push_back(tried.op->place);
  return Attempt::kOver;
}

}  // namespace virtproxy
