#include "core/v2/handshake.h"

#include <algorithm>

namespace virtproxy {
namespace {

using std::chrono::milliseconds;

// A HELLO costs a 115,200 baud line 90 ms; the first repeat waits longer than that.
constexpr Duration kFirstRepeat = milliseconds(200);
constexpr Duration kLastRepeat = milliseconds(2000);

// An application can put HELLO frames into its payload. Probes are limited, so that it cannot fill
// a slow line with them.
constexpr Duration kProbePause = milliseconds(1000);

}  // namespace

uint64_t Handshake::next_epoch() {
  for (;;) {
    if (const uint64_t epoch = siphash<2, 4>(epoch_key_, ++epochs_drawn_)) return epoch;
  }
}

void Handshake::draw_epoch() {
  epoch_ = next_epoch();
  echo_sent_ = 0;
  interval_ = kFirstRepeat;
  longest_interval_ = kLastRepeat;
}

void Handshake::start(Instant now, Duration backoff) { restart(now, backoff, std::nullopt); }

void Handshake::restart(Instant now, Duration backoff, const std::optional<Hello>& peer) {
  state_ = State::kWaiting;
  draw_epoch();
  peer_ = peer;
  clear_suspicion();
  not_before_ = now + backoff;
  hello_at_ = not_before_;
}

void Handshake::stop() {
  state_ = State::kDown;
  peer_.reset();
  clear_suspicion();
  hello_at_.reset();
}

void Handshake::end_backoff(Instant now) {
  if (not_before_ <= now) return;
  not_before_ = now;
  if (hello_at_) hello_at_ = std::min(*hello_at_, now);
}

bool Handshake::on_hello(const Hello& hello, Instant now) {
  VP_ASSERT(state_ == State::kWaiting);
  if (hello.epoch == epoch_) return false;  // our own greeting, sent back by a line that echoes
  peer_ = hello;
  // An answer that is already on its way is repeated by the timer, not by every greeting read.
  if (!introduced()) hello_at_ = std::max(now, not_before_);
  if (hello.probe || hello.echo != epoch_) return false;
  if (hello.frames > 0) {
    draw_epoch();
    hello_at_ = std::max(now, not_before_);
    return false;
  }
  state_ = State::kEstablished;
  if (introduced()) hello_at_.reset();
  return true;
}

Handshake::Meaning Handshake::between_frames(const Hello& hello, uint64_t frames, Instant now) {
  VP_ASSERT(state_ == State::kEstablished);
  if (hello.probe || hello.epoch == epoch_) return Meaning::kNothing;
  if (hello.epoch != peer_->epoch || hello.echo != epoch_) return Meaning::kRestarted;
  if (hello.joined) return hello.frames == frames ? Meaning::kNothing : Meaning::kFramesLost;
  hello_at_ = now;
  return Meaning::kNothing;
}

bool Handshake::suspect(const Hello& hello, Instant now) {
  if (hello.probe || hello.epoch == peer_->epoch || hello.epoch == epoch_) return false;
  const bool known = suspect_ && suspect_->hello.epoch == hello.epoch;
  if (known && hello.echo == suspect_->epoch) return true;
  if (!known) suspect_ = Suspect{hello, next_epoch()};
  if (!probe_at_) probe_at_ = probed_at_ ? std::max(now, *probed_at_ + kProbePause) : now;
  return false;
}

void Handshake::adopt(const Hello& hello, Instant now) {
  VP_ASSERT(suspect_ && hello.echo == suspect_->epoch);
  const uint64_t epoch = suspect_->epoch;
  restart(now, {}, hello);
  epoch_ = epoch;
  state_ = State::kEstablished;
}

void Handshake::clear_suspicion() {
  suspect_.reset();
  probe_at_.reset();
}

bool Handshake::due(Instant now) const {
  const auto at = due_at();
  return at && *at <= now;
}

std::optional<Instant> Handshake::due_at() const {
  if (hello_at_ && probe_at_) return std::min(*hello_at_, *probe_at_);
  return hello_at_ ? hello_at_ : probe_at_;
}

Hello Handshake::take(uint64_t frames, Instant now) {
  VP_ASSERT(due(now));
  Hello hello = identity_;
  if (!hello_at_ || *hello_at_ > now) {
    VP_ASSERT(suspect_);
    hello.probe = true;
    hello.epoch = suspect_->epoch;
    hello.echo = suspect_->hello.epoch;
    probed_at_ = now;
    probe_at_.reset();
    return hello;
  }
  hello.epoch = epoch_;
  hello.echo = peer_ ? peer_->epoch : 0;
  echo_sent_ = hello.echo;
  if (state_ == State::kEstablished) {
    hello.joined = true;
    hello.frames = frames;
    hello_at_.reset();
  } else {
    hello_at_ = now + interval_;
    interval_ = std::min(interval_ * 2, longest_interval_);
  }
  return hello;
}

}  // namespace virtproxy
