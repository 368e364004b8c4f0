#include "uring/transport/transport_source.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/assert.h"
#include "uring/base/log.h"
#include "uring/net/baud.h"
#include "uring/net/peer_identity.h"
#include "uring/net/sockets.h"
#include "uring/transport/device_check.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kFirstBackoff = milliseconds(50);
constexpr Duration kLastBackoff = seconds(2);
constexpr Duration kConnectTimeout = seconds(10);

// Eight bits, no line discipline at work, no modem lines, no signals.
bool make_raw(int fd, uint32_t baud) {
  termios settings{};
  if (tcgetattr(fd, &settings) != 0) return false;
  cfmakeraw(&settings);
  settings.c_cflag |= CLOCAL | CREAD;
  settings.c_cflag &= static_cast<tcflag_t>(~(HUPCL | CSTOPB | CRTSCTS));
  settings.c_cc[VMIN] = 1;
  settings.c_cc[VTIME] = 0;
  if (baud != 0) {
    const auto speed = termios_speed(baud);
    if (!speed) {
      errno = EINVAL;
      return false;
    }
    cfsetispeed(&settings, *speed);
    cfsetospeed(&settings, *speed);
  }
  return tcsetattr(fd, TCSANOW, &settings) == 0;
}

}  // namespace

TransportSource::TransportSource(Loop& loop, ResolverDriver& resolver_driver,
                                 const ChannelSpec& spec, const Acl& peers, Client* client)
    : loop_(loop),
      spec_(spec),
      client_(client),
      candidates_(loop, spec, peers, this),
      retry_(loop.timers(), this),
      peer_timeout_(loop, this),
      backoff_(kFirstBackoff) {
  if (!transport_listens(spec.transport) && !transport_is_device(spec.transport)) {
    Connector::Client* const connector_client = this;
    connector_ = std::make_unique<Connector>(loop, resolver_driver, connector_client);
  }
}

TransportSource::~TransportSource() { stop(); }

void TransportSource::start(Listening listening) {
  if (!listening.sockets.empty()) {
    // One peer at a time, so one socket: of a name with several addresses the first.
    const int listener = listening.sockets.front();
    // A peer may be gone again between the poll and the accept.
    fcntl(listener, F_SETFL, O_NONBLOCK);
    candidates_.start(listener);
    bound_ = std::move(listening.path);
    std::for_each(listening.sockets.begin() + 1, listening.sockets.end(), close);
    log_info("channel {}: listening on {}", spec_.name, spec_.address.to_string());
  }
  acquire();
}

void TransportSource::acquire() {
  if (stopped_) return;
  VP_ASSERT(fd_ < 0);
  if (!transport_listens(spec_.transport)) {
    spare_.release();
    return connector_ ? connector_->start(spec_.address, kConnectTimeout) : open_device();
  }
  spare_.hold();
  candidates_.resume();
  const auto taken = candidates_.take(spare_);
  if (!taken) return;
  origin_ = taken->identity;
  ready(taken->fd, transport_traits::kSocket);
}

void TransportSource::candidate_came() {
  // After a peer that misbehaved the next one has to wait.
  if (fd_ < 0) return retry_.armed() ? void() : acquire();
  if (heard_ || replaced_) return;
  const auto newcomer = candidates_.first_that_spoke();
  if (!newcomer) return;
  // Bytes of the peer, or its end, may be there and not read yet.
  pollfd present{fd_, POLLIN, 0};
  if (poll(&present, 1, 0) != 0) return;
  replaced_ = true;
  if (const auto hidden = replacements_.allow(loop_.now())) {
    log_warn("channel {}: the peer, {}, has sent nothing; {} has, and takes its place{}",
             spec_.name, describe(origin_), describe(*newcomer), and_others(*hidden));
  }
  client_->transport_broken("replaced by a peer that has sent something");
}

std::optional<PeerIdentity> TransportSource::present_peer() const {
  if (fd_ < 0) return std::nullopt;
  return origin_;
}

void TransportSource::accept_failed(const std::string& reason) {
  if (fd_ < 0) complain(reason);
}

void TransportSource::open_device() {
  const std::string& path = spec_.address.host;
  const int fd = open(path.c_str(), O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) {
    return try_later(path + ": " + std::strerror(errno) +
                     (errno == EBUSY ? " (is another process using it?)" : ""));
  }
  struct stat status {};
  if (fstat(fd, &status) == 0) {
    if (const auto fault = device_fault(status)) {
      close(fd);
      return try_later(path + " " + *fault);
    }
  }
  // A tty may be given to either method; it works with neither unless it is raw.
  const bool tty = isatty(fd) == 1;
  // A tty can be opened by several at once, who would then steal each other's bytes. The lock goes
  // with the process. TIOCEXCL would not: it stays for as long as the master of a pty is open.
  if (tty && flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    close(fd);
    return try_later(path + " is in use by another process");
  }
  if (tty && !make_raw(fd, spec_.address.port)) {
    const std::string reason = path + ": cannot set the tty raw: " + std::strerror(errno);
    close(fd);
    return try_later(reason);
  }
  if (tty) {
    // What we may have left in the output goes its way: dropped, it could tear a packet.
    tcflush(fd, TCIFLUSH);
  }
  ready(fd, tty ? transport_traits::kTty : transport_traits::kPort);
}

void TransportSource::connected(int fd) {
  // The last bytes before the end still have to arrive.
  if (spec_.address.kind == Address::Kind::kTcp) end_on_close(fd);
  ready(fd, transport_traits::kSocket);
}

void TransportSource::connect_failed(Fault, const std::string& reason) { try_later(reason); }

void TransportSource::ready(int fd, const TransportTraits& traits) {
  spare_.release();
  fd_ = fd;
  heard_ = replaced_ = false;
  backoff_ = kFirstBackoff;
  last_reason_.clear();
  if (spec_.address.kind == Address::Kind::kTcp) {
    prepare_tcp(fd);
    peer_timeout_.start(fd, std::chrono::duration_cast<Duration>(
                                std::chrono::duration<double>(spec_.peer_timeout)));
  }
  client_->transport_ready(fd, traits);
}

void TransportSource::peer_timed_out() {
  client_->transport_broken("the other end's machine does not answer (--peer-timeout)");
}

// Says why once, not on every attempt.
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
  backoff_ = std::min(backoff_ * 2, Duration(kLastBackoff));
}

void TransportSource::expired(Timer&) { acquire(); }

// shutdown(2) comes first, because close(2) alone has no effect while a ring holds the file. Linux
// 6.1 keeps a registered file for about a second after its removal from the table.
void TransportSource::hang_up() {
  if (fd_ < 0) return;
  peer_timeout_.stop();
  shutdown(fd_, SHUT_RDWR);
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
  if (backoff > Duration::zero()) {
    candidates_.pause();
    retry_.set(loop_.now() + backoff);
  } else if (transport_listens(spec_.transport)) {
    acquire();
  } else {
    // A peer that takes connections only to drop them must not make us spin.
    retry_.set(loop_.now() + kFirstBackoff);
  }
}

void TransportSource::stop_listening() {
  bound_.remove();
  candidates_.stop();
}

void TransportSource::stop() {
  if (stopped_) return;
  stopped_ = true;
  spare_.release();
  retry_.clear();
  stop_listening();
  if (connector_) connector_->cancel();
  hang_up();
}

}  // namespace virtproxy
