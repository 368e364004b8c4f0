// Edge-triggered epoll, shared by client and sink.
//
// Every socket is registered once, for reading. Writing is added the first time a send would block
// and stays: unix sockets raise a writing edge for each buffer the peer consumes, and those
// wake-ups would distort a ping-pong. A socket is taken as drained when a read came back short.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <span>
#include <vector>

#include "uring/base/unique_fd.h"

namespace virtproxy::bench {

class Poller {
 public:
  static constexpr uint32_t kRead = EPOLLIN | EPOLLRDHUP | EPOLLET;
  static constexpr uint32_t kReadWrite = kRead | EPOLLOUT;

  Poller();

  void add(int fd, void* owner, uint32_t events);
  void modify(int fd, void* owner, uint32_t events);

  // Waits for at most `timeout` nanoseconds; negative: without end.
  std::span<const epoll_event> wait(int64_t timeout);

  // Makes a wait() in progress, or the next one, return an event whose owner is null. Callable from
  // any thread and from signal handlers.
  void wake();

 private:
  UniqueFd epoll_;
  UniqueFd wake_;
  std::vector<epoll_event> events_;
};

}  // namespace virtproxy::bench
