#include "uring/transport/transport_source.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "core/assert.h"
#include "uring/base/log.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {

TransportSource::TransportSource(const TransportSetup& setup)
    : loop_(setup.loop),
      spec_(setup.spec),
      client_(setup.client),
      retry_(setup.loop.timers(), this) {}

void TransportSource::start(Listening) { try_now(); }

void TransportSource::try_now() {
  if (stopped_) return;
  VP_ASSERT(fd_ < 0);
  acquire();
}

void TransportSource::ready(int fd, const TransportTraits& traits) {
  spare_.release();
  fd_ = fd;
  backoff_ = kFirstBackoff;
  last_reason_.clear();
  client_->transport_ready(fd, traits);
}

void TransportSource::complain(const std::string& reason) {
  if (reason != last_reason_) {
    log_warn("channel {}: {}: {}; trying again", spec_.name, transport_name(spec_.transport),
             reason);
    last_reason_ = reason;
  }
  client_->transport_unavailable();
}

void TransportSource::try_later(const std::string& reason) {
  spare_.hold();
  retry_.set(loop_.now() + backoff_);
  complain(reason);
  backoff_ = std::min(backoff_ * 2, kLastBackoff);
}

void TransportSource::expired(Timer&) { try_now(); }

void TransportSource::shut() {
  if (fd_ >= 0) shutdown(fd_, SHUT_RDWR);
}

// shutdown(2) comes first, because close(2) alone has no effect while a ring holds the file. Linux
// 6.1 keeps a registered file for about a second after its removal from the table.
void TransportSource::hang_up() {
  if (fd_ < 0) return;
  closing();
  shut();
  if (stopped_) {
    close(fd_);
  } else {
    spare_.close_into(fd_);
  }
  fd_ = -1;
}

void TransportSource::lost(Duration backoff) {
  hang_up();
  if (stopped_) return;
  const Duration pause = std::max(backoff, least_pause());
  if (pause == Duration::zero()) return try_now();
  suspend();
  retry_.set(loop_.now() + pause);
}

void TransportSource::stop() {
  if (stopped_) return;
  stopped_ = true;
  spare_.release();
  retry_.clear();
  stop_listening();
  cancel();
  hang_up();
}

}  // namespace virtproxy
