#include "uring/net/lingering_close.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <utility>

#include "core/assert.h"

namespace virtproxy {
namespace {

constexpr size_t kReadSize = 16 * 1024;
constexpr int kMostReads = 8;  // before others have their turn

}  // namespace

LingeringClose::LingeringClose(Loop& loop, int fd, Client* client)
    : loop_(loop), client_(client), fd_(fd), poll_(this), timer_(loop.timers(), this) {
  timer_.set(loop_.now() + kLongest);
  listen();
}

LingeringClose::~LingeringClose() { VP_ASSERT(idle()); }

void LingeringClose::listen() { loop_.driver().poll(poll_, {fd_, -1}, POLLIN | POLLRDHUP); }

void LingeringClose::complete(Op&, Outcome) {
  if (fd_ < 0) return client_->lingering_closed();
  // What is received is discarded. The buffer is static because a release build fills a local array
  // with zeros at each call.
  static thread_local std::byte unheard[kReadSize];
  for (int reads = 0; reads < kMostReads; ++reads) {
    const ssize_t got = recv(fd_, unheard, sizeof unheard, MSG_DONTWAIT);
    if (got > 0) continue;
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) break;
    return end();
  }
  listen();
}

void LingeringClose::end() {
  if (fd_ < 0) return;
  timer_.clear();
  loop_.driver().cancel(poll_);
  close(std::exchange(fd_, -1));
  client_->lingering_closed();
}

}  // namespace virtproxy
