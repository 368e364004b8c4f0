#include "core/protocol_selector.h"

#include "core/assert.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// While an old packet may be followed by a greeting, this much is kept of what follows it, bytes.
constexpr size_t kMostKept = 64 * 1024;
// A peer that greeted or spoke version 2 on this link a moment ago gets more time to greet again:
// it may be slow, or slowing down, as this end does after faults.
constexpr Duration kAfterSession = seconds(2);
// Greetings that lead nowhere put the choice off at most this many times the grace.
constexpr int kMostGraces = 10;
// In version 1 somebody may still have to hear our greeting.
constexpr Duration kLongestInterval = seconds(10);

// Enough for 115,200 baud, the slowest line that is likely to be used without telling its speed.
constexpr Duration kGraceOnUnknownLine = milliseconds(500);
constexpr uint64_t kBitsPerByte = 10;  // with those of start and stop

}  // namespace

// One greeting each way, one after the other: the other end may be waiting for ours.
Duration grace_on_line(uint32_t baud) {
  if (baud == 0) return kGraceOnUnknownLine;
  return kGrace + Duration(seconds(2 * kHelloSize * kBitsPerByte)) / baud;
}

ProtocolChoice::ProtocolChoice(const SessionConfig& config, ProtocolMode mode)
    : mode_(mode), new_(config), old_(config), current_(&new_) {}

void ProtocolChoice::link_up(Instant now, Duration grace, uint64_t features, Events& events) {
  VP_ASSERT(state_ == State::kDown);
  grace_ = grace;
  reason_ = "";
  if (mode_ == ProtocolMode::kOld) return begin_old(now, events);
  new_.want_features(features);
  new_.link_up(now);
  if (mode_ == ProtocolMode::kNew) {
    state_ = State::kNew;
  } else {
    begin_choosing(now, grace);
  }
}

void ProtocolChoice::link_down(Events& events) {
  if (state_ == State::kDown) return;
  state_ = State::kDown;
  old_.finish(Fault::kLinkLost, events);
  if (mode_ != ProtocolMode::kOld) new_.link_down(events);
  current_ = &new_;
}

void ProtocolChoice::begin_choosing(Instant now, Duration silence) {
  state_ = State::kChoosing;
  current_ = &new_;
  const Instant from = std::max(now, new_.greets_at().value_or(now));
  grace_ends_ = from + silence;
  old_grace_ends_ = now + grace_;
  grace_ends_at_last_ = grace_ends_ + kMostGraces * grace_;
  kept_ = 0;
  searched_ = 0;
  old_packet_at_.reset();
}

Instant ProtocolChoice::choose_at() const {
  return old_packet_at_ ? std::min(grace_ends_, old_grace_ends_) : grace_ends_;
}

void ProtocolChoice::begin_old(Instant now, Events& events) {
  by_silence_ = state_ == State::kChoosing && !old_packet_at_;
  if (state_ == State::kChoosing) {
    reason_ =
        old_packet_at_ ? ": the other end sent an old packet" : ": the other end has not greeted";
    // What looked like a fault of version 2 was an end that does not speak it.
    new_.forgive(now);
    new_.set_longest_interval(kLongestInterval);
  }
  state_ = State::kOld;
  current_ = &old_;
  old_.begin(events);
}

// A greeting, and not our own words sent back.
bool ProtocolChoice::is_news(const Hello& hello) const {
  return speaks_our_version(hello) && hello.epoch != new_.epoch();
}

void ProtocolChoice::hear(const Hello& hello, Instant now, Events& events) {
  if (is_news(hello)) {
    grace_ends_ = std::min(now + std::max(grace_, kAfterSession), grace_ends_at_last_);
    old_grace_ends_ = std::min(now + grace_, grace_ends_at_last_);
  }
  new_.greeted(hello, now, events);
  if (new_.up()) state_ = State::kNew;
}

// --- reading ----------------------------------------------------------------------------------

bool ProtocolChoice::wants_input(Instant now) {
  return state_ == State::kChoosing ? kept_ < kMostKept : current_->wants_input(now);
}

size_t ProtocolChoice::input(std::span<const std::byte> bytes, Instant now, Events& events) {
  VP_ASSERT(state_ != State::kDown);
  if (mode_ == ProtocolMode::kNew) return new_.input(bytes, now, events);
  if (state_ == State::kOld) return input_old(bytes, now, events);
  if (state_ == State::kChoosing) return choose(bytes, now, events);
  const size_t used = new_.input_established(bytes, now, events);
  if (!new_.up()) begin_choosing(now, std::max(grace_, kAfterSession));
  return used;
}

// Keeps what may be old packets, skips what can be nothing. What is kept grows with every read, so
// no byte of it is searched for a greeting again, nor for an old packet once there is one.
size_t ProtocolChoice::choose(std::span<const std::byte> bytes, Instant now, Events& events) {
  size_t used = 0;
  for (;;) {
    const auto rest = bytes.subspan(used);
    VP_ASSERT(searched_ <= rest.size());
    const HelloSearch search = find_hello(rest.subspan(searched_));
    bytes_searched_ += rest.size() - searched_;
    if (search.hello) {
      used += searched_ + search.at + kHelloSize;
      searched_ = 0;
      old_packet_at_.reset();
      hear(*search.hello, now, events);
      if (state_ != State::kChoosing) return used;
      continue;
    }
    searched_ += search.skip;
    size_t skip = searched_;
    if (old_packet_at_) {
      skip = std::min(skip, *old_packet_at_);
    } else {
      const OldSearch old = find_old_packet(rest);
      bytes_searched_ += rest.size();
      if (old.found) old_packet_at_ = old.at;
      skip = std::min(skip, old.at);
    }
    used += skip;
    searched_ -= skip;
    if (old_packet_at_) *old_packet_at_ -= skip;
    kept_ = bytes.size() - used;
    if (now < choose_at()) return used;
    // The clock has run out while nobody looked.
    begin_old(now, events);
    return used;
  }
}

size_t ProtocolChoice::input_old(std::span<const std::byte> bytes, Instant now, Events& events) {
  size_t used = 0;
  for (;;) {
    used += old_.input(bytes.subspan(used), now, events);
    const auto hello = old_.take_greeting();
    if (!hello) return used;
    if (mode_ == ProtocolMode::kOld || !is_news(*hello)) continue;
    old_.finish(Fault::kUpgraded, events);
    begin_choosing(now, grace_);
    hear(*hello, now, events);
    return used;
  }
}

// --- writing ----------------------------------------------------------------------------------

bool ProtocolChoice::wants_to_write(Instant now) const {
  if (state_ == State::kDown) return false;
  return current_->wants_to_write(now) ||
         (mode_ == ProtocolMode::kAuto && new_.wants_to_write(now));
}

const Batch& ProtocolChoice::plan(uint64_t bytes, Instant now, Events& events) {
  const bool greets =
      state_ == State::kOld && mode_ == ProtocolMode::kAuto && new_.wants_to_write(now);
  return greets ? new_.plan(bytes, now, events) : current_->plan(bytes, now, events);
}

// --- time -------------------------------------------------------------------------------------

std::optional<Instant> ProtocolChoice::deadline() const {
  if (state_ == State::kDown) return std::nullopt;
  std::optional<Instant> at = current_->deadline();
  const auto consider = [&at](std::optional<Instant> other) {
    if (other) at = at ? std::min(*at, *other) : *other;
  };
  if (state_ == State::kChoosing) consider(choose_at());
  if (state_ == State::kOld && mode_ == ProtocolMode::kAuto) consider(new_.deadline());
  return at;
}

bool ProtocolChoice::tick(Instant now, Events& events) {
  if (state_ == State::kDown) return false;
  if (state_ == State::kChoosing && choose_at() <= now) {
    begin_old(now, events);
    return true;
  }
  current_->tick(now, events);
  return false;
}

void ProtocolChoice::go_away() {
  new_.go_away();
  old_.go_away();
}

Session::Figures ProtocolChoice::figures() {
  Session::Figures figures = current_->figures();
  figures.sessions = new_.figures().sessions + old_.figures().sessions;
  return figures;
}

}  // namespace virtproxy
