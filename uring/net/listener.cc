#include "uring/net/listener.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/assert.h"
#include "uring/base/log.h"
#include "uring/net/sockets.h"

namespace virtproxy {
namespace {

constexpr Duration kRetryInterval = std::chrono::milliseconds(100);

}  // namespace

Listener::Listener(Loop& loop, const ForwardSpec& forward, int fd, Client* client)
    : loop_(loop),
      forward_(forward),
      client_(client),
      accept_(this),
      retry_(loop.timers(), this),
      fd_(fd) {
  // Inherited by what it accepts.
  if (forward_.address.kind == Address::Kind::kTcp) reset_on_close(fd_);
  loop_.driver().accept(accept_, fd_);
}

Listener::~Listener() {
  VP_ASSERT(idle());
  stop();
}

void Listener::stop() {
  if (fd_ < 0) return;
  retry_.clear();
  loop_.driver().cancel(accept_);
  close(fd_);
  fd_ = -1;
}

void Listener::complete(Op& op, Outcome outcome) {
  const int result = outcome.result;
  if (fd_ < 0) {
    if (result >= 0) close(result);
    return;
  }
  if (result >= 0) {
    short_of_resources_ = false;
    client_->accepted(result, forward_);
    if (!op.pending) loop_.driver().accept(accept_, fd_);
    return;
  }
  if (outcome.more) return;
  const bool passing = result == -EINTR || result == -EAGAIN || result == -ECONNABORTED ||
                       result == -ECANCELED || result == -EPROTO;
  if (passing) {
    loop_.driver().accept(accept_, fd_);
    return;
  }
  if (!std::exchange(short_of_resources_, true)) {
    const bool descriptors = result == -EMFILE || result == -ENFILE;
    log_error("channel {}: service {}: cannot accept: {}{}; clients wait until some are free",
              forward_.id, forward_.service, std::strerror(-result),
              descriptors ? " (raise the limit: ulimit -n, LimitNOFILE=)" : "");
  }
  retry_.set(loop_.now() + kRetryInterval);
}

void Listener::expired(Timer&) {
  if (fd_ >= 0 && !accept_.pending) loop_.driver().accept(accept_, fd_);
}

}  // namespace virtproxy
