#include "uring/net/listener.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

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
      file_(loop.driver().add_file(fd, FileUse::kListen)) {
  // Inherited by what it accepts.
  if (forward_.address.kind == Address::Kind::kTcp) reset_on_close(fd);
  loop_.driver().accept(accept_, file_);
}

Listener::~Listener() {
  VP_ASSERT(idle());
  stop();
}

void Listener::stop() {
  if (state_ == State::kStopped) return;
  // The socket may go on in another process or thread.
  if (state_ == State::kPaused) listen_again(file_.fd);
  state_ = State::kStopped;
  retry_.clear();
  loop_.driver().cancel(accept_);
  loop_.driver().remove_file(file_);
  close(std::exchange(file_.fd, -1));
}

void Listener::pause() {
  if (state_ == State::kStopped || state_ == State::kPaused) return;
  state_ = State::kPaused;
  retry_.clear();
  loop_.driver().cancel(accept_);
  stop_listening(file_.fd);
}

void Listener::resume() {
  if (state_ != State::kPaused) return;
  if (!listen_again(file_.fd)) {
    log_error("channel {}: service {}: cannot listen again: {}", forward_.channel, forward_.service,
              std::strerror(errno));
    return;
  }
  state_ = State::kResumed;
  // Otherwise the end of the one that was cancelled starts the next.
  if (!accept_.pending) loop_.driver().accept(accept_, file_);
}

void Listener::complete(Op& op, Outcome outcome) {
  const int result = outcome.result;
  if (state_ == State::kStopped) {
    if (result >= 0) close(result);
    return;
  }
  if (result >= 0) {
    if (state_ != State::kPaused) state_ = State::kAccepting;
    client_->accepted(result, forward_);
    if (!op.pending && state_ != State::kPaused) loop_.driver().accept(accept_, file_);
    return;
  }
  if (outcome.more || state_ == State::kPaused) return;
  // Of an accept that began before the socket stopped listening.
  if (state_ == State::kResumed && result == -EINVAL) {
    loop_.driver().accept(accept_, file_);
    return;
  }
  const bool passing = result == -EINTR || result == -EAGAIN || result == -ECONNABORTED ||
                       result == -ECANCELED || result == -EPROTO;
  if (passing) {
    loop_.driver().accept(accept_, file_);
    return;
  }
  if (std::exchange(state_, State::kFailing) != State::kFailing) {
    const bool descriptors = result == -EMFILE || result == -ENFILE;
    log_error("channel {}: service {}: cannot accept: {}{}; clients wait until some are free",
              forward_.channel, forward_.service, std::strerror(-result),
              descriptors ? " (raise the limit: ulimit -n, LimitNOFILE=)" : "");
  }
  retry_.set(loop_.now() + kRetryInterval);
}

void Listener::expired(Timer&) {
  if (state_ != State::kStopped && state_ != State::kPaused && !accept_.pending)
    loop_.driver().accept(accept_, file_);
}

}  // namespace virtproxy
