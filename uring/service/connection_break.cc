// The end of a connection whose stream was broken off by one of its applications.
#include <poll.h>

#include <algorithm>
#include <cerrno>

#include "uring/net/sockets.h"
#include "uring/service/connection.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Bytes that are still to be delivered are given up after no byte has moved for this long: the peer
// gives no credit, the application does not read, or the service is not connected yet. TCP reports
// the progress of a slow reader only after it has read a good part of its buffer.
constexpr Duration kLongestPause = seconds(5);

// Intervals of checks, because the kernel does not report that the other side has acknowledged
// everything, or that an application has read something while its socket still has no room.
constexpr Duration kFirstInterval = milliseconds(1);
constexpr Duration kLastInterval = milliseconds(20);
constexpr Duration kReadingInterval = milliseconds(500);

}  // namespace

// The application is gone, but what it had sent before may still lie in the socket.
void Connection::send_failed(int error) {
  if (break_ == Break::kThere) return end_break();
  const bool gone = error == EPIPE || error == ECONNRESET || error == ETIMEDOUT;
  if (!gone || input_ended() || !stream_.delivers_before_reset()) {
    return break_off();
  }
  begin_break(Break::kHere);
  break_state_->timer.set(break_state_->moved_at + kLongestPause);
  if (!is_sending()) drop_inbound();
  stream_.discard_input();
  receive_more();
}

// Nothing more comes from the application. What came is sent, and the stream is reset then.
void Connection::break_off() {
  if (break_ == Break::kThere) return end_break();
  break_ = Break::kLeaving;
  break_state_.reset();
  stream_.loop().driver().cancel(receive_op_);
  if (!is_sending()) drop_inbound();
  // An immediate reset frees the place of the stream, so it is given up at once.
  if (!stream_.reset_after_data()) abort(Fault::kAborted);
}

void Connection::peer_broke_off() {
  // Both applications have broken off, or there is nothing to deliver.
  const bool idle = file_.fd < 0 && send_queue_.empty() && !peer_ended_;
  if (break_ != Break::kNone || idle) return end_break();
  begin_break(Break::kThere);
  drop_outbound();
  stream_.loop().driver().cancel(receive_op_);
  // Else delivery begins once the service is connected, if that does not take too long.
  if (file_.fd >= 0) return deliver_rest_from_now();
  break_state_->timer.set(break_state_->moved_at + kLongestPause);
}

void Connection::deliver_rest_from_now() {
  note_movement();
  break_state_->timer.set(break_state_->moved_at + kReadingInterval);
  poll_hangup();
  stream_.want_flush();
}

void Connection::begin_break(Break kind) {
  Timer::Owner* const owner = this;
  break_ = kind;
  break_state_.reset(new BreakState{{stream_.loop().timers(), owner}, stream_.loop().now()});
  break_state_->interval = kFirstInterval;
}

void Connection::note_movement() {
  if (break_state_) break_state_->moved_at = stream_.loop().now();
}

void Connection::expired(Timer&) {
  if (is_over()) return;
  if (break_ == Break::kThere) return file_.fd < 0 ? end_break() : deliver_rest();
  const Instant limit = break_state_->moved_at + kLongestPause;
  if (limit <= stream_.loop().now()) return break_off();
  break_state_->timer.set(limit);
}

// A reset makes the kernel drop what it has not sent yet. So it waits until the other side's kernel
// has everything; what that one has, its application can read although a reset follows. On a unix
// socket the bytes are there at once.
void Connection::deliver_rest() {
  BreakState& state = *break_state_;
  const Instant now = stream_.loop().now();
  const bool all_sent =
      !is_sending() && send_queue_.empty() && slices_.empty() && (!peer_ended_ || is_shut());
  if (all_sent && kind_ != Address::Kind::kTcp) return end_break();
  const int before = std::exchange(state.unacknowledged, unacknowledged(file_.fd));
  if (all_sent && state.unacknowledged == 0) return end_break();
  if (state.unacknowledged < before) state.moved_at = now;
  const Instant limit = state.moved_at + kLongestPause;
  if (limit <= now) return end_break();
  state.timer.set(std::min(limit, now + (all_sent ? state.interval : kReadingInterval)));
  if (all_sent) state.interval = std::min(2 * state.interval, kLastInterval);
}

void Connection::end_break() {
  stream_.reset(Fault::kAborted);
  abort(Fault::kAborted);
}

void Connection::drop_inbound() {
  stream_.slices().clear(slices_);
  send_queue_.clear();
}

}  // namespace virtproxy
