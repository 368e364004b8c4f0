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

constexpr Duration kAcceptRetry = std::chrono::milliseconds(100);

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
  if (state_ == State::kFailing) state_ = State::kAccepting;  // the client may be gone
  stop();
}

void Listener::stop() {
  if (state_ == State::kStopped) return;
  resumed();
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
  resumed();
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
    resumed();
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
  if (state_ != State::kFailing) stalled(-result);
  retry_.set(loop_.now() + kAcceptRetry);
}

void Listener::stalled(int error) {
  state_ = State::kFailing;
  error_ = error;
  stalled_since_ = loop_.now();
  const bool descriptors = error == EMFILE || error == ENFILE;
  log_error("channel {}: service {}: cannot accept: {}{}; clients wait until some are free",
            forward_.channel, forward_.service, std::strerror(error),
            descriptors ? " (raise the limit: ulimit -n, LimitNOFILE=)" : "");
  client_->accepting_stalled(error, stalled_since_);
}

void Listener::resumed() {
  if (state_ != State::kFailing) return;
  state_ = State::kAccepting;
  client_->accepting_resumed(error_, stalled_since_);
}

// An accept that is still under way after an interval needs nothing but a client.
void Listener::expired(Timer&) {
  if (state_ != State::kFailing) return;
  if (accept_.pending) return resumed();
  loop_.driver().accept(accept_, file_);
  retry_.set(loop_.now() + kAcceptRetry);
}

}  // namespace virtproxy
