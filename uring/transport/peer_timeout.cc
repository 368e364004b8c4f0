#include "uring/transport/peer_timeout.h"

#include <linux/tcp.h>  // tcp_info of the C library lacks tcpi_notsent_bytes
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <climits>

#include "uring/io/loop.h"

namespace virtproxy {
namespace {

using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Of one limit: a window that closes is noticed before TCP_USER_TIMEOUT ends the connection.
constexpr int kChecks = 4;
// Window probes or retransmissions in a row. The answer to one may be on its way.
constexpr unsigned kUnanswered = 2;

void set_option(int fd, int level, int option, int value) {
  // A socket that lacks one still works.
  (void)setsockopt(fd, level, option, &value, sizeof value);
}

void set_user_timeout(int fd, int64_t time) {
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT,
             static_cast<int>(std::clamp<int64_t>(time, 0, INT_MAX)));
}

}  // namespace

PeerTimeout::PeerTimeout(Loop& loop, Client* client)
    : loop_(loop), client_(client), check_(loop.timers(), this) {}

void PeerTimeout::start(int fd, Duration limit) {
  limit_ = limit;
  window_ = Window::kOpen;
  if (limit == Duration::zero()) {
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 0);
    set_user_timeout(fd, INT_MAX);
    return;
  }
  // Half of the time without a probe, then three of them: the last one has its interval, too.
  const auto whole = static_cast<int>(duration_cast<seconds>(limit).count());
  const int idle = std::max(1, whole / 2);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, std::max(1, (whole - idle) / 3));
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
  set_user_timeout(fd, duration_cast<milliseconds>(limit).count());
  fd_ = fd;
  check_.set(loop_.now() + limit / kChecks);
}

void PeerTimeout::stop() {
  check_.clear();
  fd_ = -1;
}

void PeerTimeout::expired(Timer&) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (getsockopt(fd_, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return;
  if (info.tcpi_notsent_bytes == 0) {
    set_window(Window::kOpen);
  } else if (info.tcpi_unacked == 0) {
    set_window(Window::kClosed);
  }
  check_.set(loop_.now() + limit_ / kChecks);
  const bool unanswered = info.tcpi_probes >= kUnanswered || info.tcpi_retransmits >= kUnanswered;
  const Duration silence = milliseconds(info.tcpi_last_ack_recv);
  if (window_ == Window::kClosed && unanswered && silence > limit_) client_->peer_timed_out();
}

// One that has opened a little closes again with the next segment: it counts as open when
// everything has left.
void PeerTimeout::set_window(Window window) {
  if (window == window_) return;
  window_ = window;
  set_user_timeout(
      fd_, window == Window::kClosed ? 0 : duration_cast<milliseconds>(limit_).count());
}

}  // namespace virtproxy
