// The part of a relay that epoll_copy.cc and splice.cc share: which sockets to look at.
//
// Level-triggered, and one piece for each wake-up of a socket, so that one that has more waits its
// turn behind the others. While a socket does not take its bytes, its source is left alone. A
// socket of which nothing is wanted is taken out altogether, because the kernel reports a hang-up
// even to those who did not ask.
#pragma once

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <memory>
#include <vector>

#include "perf/relays/relay.h"

namespace virtproxy::relay {

enum class Moved { kSome, kNothing, kEnd, kError };

// Mover:
//   Queue                                 what one socket is still to be sent
//   Queue open(); void close(Queue&);
//   Moved fill(int from, Queue&, int to)  moves one piece, as much of it as goes, to `to`
//   bool drain(Queue&, int to)            sends what is left; false on an error
//   bool empty(const Queue&)
template <typename Mover>
class EpollRelay {
 public:
  explicit EpollRelay(const Options& options)
      : options_(options), mover_(options), listener_(listen_at(options)) {
    fcntl(listener_, F_SETFL, O_NONBLOCK);
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_ < 0) die("epoll_create1");
    epoll_event event{EPOLLIN, {}};
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, listener_, &event) != 0) die("epoll_ctl");
  }

  [[noreturn]] void run() {
    epoll_event events[64];
    for (;;) {
      const int count = epoll_wait(epoll_, events, 64, -1);
      for (int i = 0; i < count; ++i) {
        if (events[i].data.ptr == nullptr) {
          accept_all();
        } else {
          handle(*static_cast<Side*>(events[i].data.ptr), events[i].events);
        }
      }
      dead_.clear();
    }
  }

 private:
  struct Connection;
  struct Side {
    int fd = -1;
    uint32_t watched = 0;  // epoll events asked for
    bool ended = false;    // nothing more will be read from it
    typename Mover::Queue queue{};
    Connection* connection = nullptr;
    Side* other = nullptr;
  };
  struct Connection {
    Side sides[2];
    bool dead = false;
  };

  void accept_all() {
    for (;;) {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (fd < 0) return;
      prepare(fd, options_);
      const int out = connect_out(options_);
      if (out < 0) {
        close(fd);
        continue;
      }
      fcntl(out, F_SETFL, O_NONBLOCK);
      auto* connection = new Connection;
      const int fds[2] = {fd, out};
      for (int i = 0; i < 2; ++i) {
        Side& side = connection->sides[i];
        side.fd = fds[i];
        side.queue = mover_.open();
        side.connection = connection;
        side.other = &connection->sides[1 - i];
        watch(side, EPOLLIN);
      }
    }
  }

  void handle(Side& side, uint32_t events) {
    if (side.connection->dead) return;
    if ((side.watched & EPOLLOUT) != 0 && (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) {
      flush(side);
      if (side.connection->dead) return;
    }
    if ((side.watched & EPOLLIN) != 0 && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
      pump(side);
    }
  }

  void pump(Side& from) {
    Side& to = *from.other;
    switch (mover_.fill(from.fd, to.queue, to.fd)) {
      case Moved::kNothing:
        return;
      case Moved::kError:
        destroy(*from.connection);
        return;
      case Moved::kEnd:
        end(from);
        return;
      case Moved::kSome:
        if (mover_.empty(to.queue)) return;
        watch(from, from.watched & ~EPOLLIN);
        watch(to, to.watched | EPOLLOUT);
    }
  }

  void flush(Side& to) {
    if (!mover_.drain(to.queue, to.fd)) {
      destroy(*to.connection);
    } else if (mover_.empty(to.queue)) {
      watch(to, to.watched & ~EPOLLOUT);
      watch(*to.other, to.other->watched | EPOLLIN);
    }
  }

  // `from` has said its last. It was being read, so the other side has taken all of it.
  void end(Side& from) {
    from.ended = true;
    if (from.other->ended) {
      destroy(*from.connection);
      return;
    }
    watch(from, from.watched & ~EPOLLIN);
    shutdown(from.other->fd, SHUT_WR);
  }

  void watch(Side& side, uint32_t events) {
    if (side.watched == events) return;
    epoll_event event{events, {}};
    event.data.ptr = &side;
    const int change = events == 0         ? EPOLL_CTL_DEL
                       : side.watched == 0 ? EPOLL_CTL_ADD
                                           : EPOLL_CTL_MOD;
    side.watched = events;
    if (epoll_ctl(epoll_, change, side.fd, &event) != 0) die("epoll_ctl");
  }

  // The memory stays until the events at hand are through: one of them may be its.
  void destroy(Connection& connection) {
    connection.dead = true;
    for (Side& side : connection.sides) {
      close(side.fd);
      mover_.close(side.queue);
    }
    dead_.emplace_back(&connection);
  }

  const Options options_;
  Mover mover_;
  int listener_;
  int epoll_ = -1;
  std::vector<std::unique_ptr<Connection>> dead_;
};

}  // namespace virtproxy::relay
