#include "core/protocol_selector.h"

#include "core/assert.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// While an old packet may be followed by a greeting, this much is kept of what follows it, bytes.
constexpr size_t kMostKept = 64 * 1024;
// An end that has chosen version 1 because it heard nothing writes less than that, in bytes, before
// it hears anything. The other end may begin to read only then. With more in front of the next
// greeting it would stop reading before it. The bound ends after kUnheard, because an old peer does
// not answer for a service that it does not have.
constexpr uint64_t kMostUnheard = kMostKept - 4 * uint64_t{kV1PacketSize};
constexpr Duration kUnheard = seconds(2);
// A peer that greeted or spoke version 2 on this link a moment ago gets more time to greet again:
// it may be slow, or slowing down, as this end does after faults.
constexpr Duration kAfterSession = seconds(2);
// Greetings that lead nowhere put the choice off at most this many times the grace.
constexpr int kMostGraces = 10;
// In version 1 the peer may still have to read our greeting.
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

ProtocolSelector::ProtocolSelector(const SessionConfig& config, ProtocolMode mode)
    : mode_(mode), v2_(config), v1_(config), current_(&v2_) {}

void ProtocolSelector::transport_up(Instant now, Duration grace, uint64_t features,
                                    Events& events) {
  VP_ASSERT(state_ == State::kDown);
  grace_ = grace;
  reason_ = "";
  if (mode_ == ProtocolMode::kV1) return begin_v1(now, events);
  v2_.want_features(features);
  v2_.transport_up(now);
  if (mode_ == ProtocolMode::kV2) {
    state_ = State::kV2;
  } else {
    begin_choosing(now, grace);
  }
}

void ProtocolSelector::transport_down(Events& events) {
  if (state_ == State::kDown) return;
  state_ = State::kDown;
  v1_.finish(Fault::kTransportLost, events);
  if (mode_ != ProtocolMode::kV1) v2_.transport_down(events);
  current_ = &v2_;
}

void ProtocolSelector::begin_choosing(Instant now, Duration silence) {
  state_ = State::kChoosing;
  current_ = &v2_;
  const Instant from = std::max(now, v2_.next_hello_at().value_or(now));
  grace_ends_ = from + silence;
  v1_grace_ends_ = now + grace_;
  grace_ends_at_last_ = grace_ends_ + kMostGraces * grace_;
  kept_ = 0;
  searched_ = 0;
  v1_packet_at_.reset();
}

Instant ProtocolSelector::choose_at() const {
  return v1_packet_at_ ? std::min(grace_ends_, v1_grace_ends_) : grace_ends_;
}

void ProtocolSelector::begin_v1(Instant now, Events& events) {
  by_silence_ = state_ == State::kChoosing && !v1_packet_at_;
  if (state_ == State::kChoosing) {
    reason_ =
        v1_packet_at_ ? ": the other end sent an old packet" : ": the other end has not greeted";
    // What looked like a fault of version 2 was an end that does not speak it.
    v2_.forgive(now);
    v2_.set_longest_interval(kLongestInterval);
  }
  state_ = State::kV1;
  current_ = &v1_;
  unheard_until_ = now + (by_silence_ ? Duration(kUnheard) : Duration::zero());
  written_unheard_ = 0;
  v1_.begin(events);
}

// A greeting of the peer, and not our own sent back.
bool ProtocolSelector::is_fresh(const Hello& hello) const {
  return speaks_our_version(hello) && hello.epoch != v2_.epoch();
}

void ProtocolSelector::on_hello(const Hello& hello, Instant now, Events& events) {
  if (is_fresh(hello)) {
    grace_ends_ = std::min(now + std::max(grace_, kAfterSession), grace_ends_at_last_);
    v1_grace_ends_ = std::min(now + grace_, grace_ends_at_last_);
  }
  v2_.on_hello(hello, now, events);
  if (v2_.up()) state_ = State::kV2;
}

// --- reading ----------------------------------------------------------------------------------

bool ProtocolSelector::wants_input(Instant now) {
  return state_ == State::kChoosing ? kept_ < kMostKept : current_->wants_input(now);
}

size_t ProtocolSelector::input(std::span<const std::byte> bytes, Instant now, Events& events) {
  VP_ASSERT(state_ != State::kDown);
  if (mode_ == ProtocolMode::kV2) return v2_.input(bytes, now, events);
  if (state_ == State::kV1) return input_v1(bytes, now, events);
  if (state_ == State::kChoosing) return choose(bytes, now, events);
  const size_t used = v2_.input_established(bytes, now, events);
  if (!v2_.up()) begin_choosing(now, std::max(grace_, kAfterSession));
  return used;
}

// Keeps what may be old packets, skips what can be nothing. What is kept grows with every read, so
// no byte of it is searched for a greeting again, nor for an old packet once there is one.
size_t ProtocolSelector::choose(std::span<const std::byte> bytes, Instant now, Events& events) {
  size_t used = 0;
  for (;;) {
    const auto rest = bytes.subspan(used);
    VP_ASSERT(searched_ <= rest.size());
    const HelloSearch search = find_hello(rest.subspan(searched_));
    bytes_searched_ += rest.size() - searched_;
    if (search.hello) {
      used += searched_ + search.at + kHelloSize;
      searched_ = 0;
      v1_packet_at_.reset();
      on_hello(*search.hello, now, events);
      if (state_ != State::kChoosing) return used;
      continue;
    }
    searched_ += search.skip;
    size_t skip = searched_;
    if (v1_packet_at_) {
      skip = std::min(skip, *v1_packet_at_);
    } else {
      const V1Search old = find_v1_packet(rest);
      bytes_searched_ += rest.size();
      if (old.found) v1_packet_at_ = old.at;
      skip = std::min(skip, old.at);
    }
    used += skip;
    searched_ -= skip;
    if (v1_packet_at_) *v1_packet_at_ -= skip;
    kept_ = bytes.size() - used;
    if (now < choose_at()) return used;
    // The grace has ended since the last tick().
    begin_v1(now, events);
    return used;
  }
}

size_t ProtocolSelector::input_v1(std::span<const std::byte> bytes, Instant now, Events& events) {
  if (bytes.size() > kept_) end_silence(now);
  size_t used = 0;
  for (;;) {
    used += v1_.input(bytes.subspan(used), now, events);
    const auto hello = v1_.take_hello();
    if (!hello) {
      kept_ = bytes.size() - used;
      return used;
    }
    if (mode_ == ProtocolMode::kV1 || !is_fresh(*hello)) continue;
    v1_.finish(Fault::kUpgraded, events);
    begin_choosing(now, grace_);
    on_hello(*hello, now, events);
    return used;
  }
}

// --- writing ----------------------------------------------------------------------------------

void ProtocolSelector::end_silence(Instant now) {
  unheard_until_ = now;
  written_unheard_ = 0;
}

// Of version 1, how much may be written now.
uint64_t ProtocolSelector::allowed_unheard(uint64_t bytes, Instant now) const {
  if (state_ != State::kV1 || now >= unheard_until_) return bytes;
  return std::min(bytes, kMostUnheard - std::min(kMostUnheard, written_unheard_));
}

bool ProtocolSelector::wants_to_write(Instant now) const {
  if (state_ == State::kDown) return false;
  return (current_->wants_to_write(now) && allowed_unheard(1, now) > 0) ||
         (mode_ == ProtocolMode::kAuto && v2_.wants_to_write(now));
}

const Batch& ProtocolSelector::plan(uint64_t bytes, Instant now, Events& events) {
  const bool greets =
      state_ == State::kV1 && mode_ == ProtocolMode::kAuto && v2_.wants_to_write(now);
  if (greets) return v2_.plan(bytes, now, events);
  const Batch& batch = current_->plan(allowed_unheard(bytes, now), now, events);
  if (now < unheard_until_) written_unheard_ += batch.size;
  return batch;
}

// --- time -------------------------------------------------------------------------------------

std::optional<Instant> ProtocolSelector::deadline() const {
  if (state_ == State::kDown) return std::nullopt;
  std::optional<Instant> at = current_->deadline();
  const auto consider = [&at](std::optional<Instant> other) {
    if (other) at = at ? std::min(*at, *other) : *other;
  };
  if (state_ == State::kChoosing) consider(choose_at());
  if (state_ == State::kV1 && mode_ == ProtocolMode::kAuto) consider(v2_.deadline());
  if (state_ == State::kV1 && written_unheard_ >= kMostUnheard) consider(unheard_until_);
  return at;
}

bool ProtocolSelector::tick(Instant now, Events& events) {
  if (state_ == State::kDown) return false;
  if (state_ == State::kChoosing && choose_at() <= now) {
    begin_v1(now, events);
    return true;
  }
  if (now >= unheard_until_) end_silence(now);
  current_->tick(now, events);
  return false;
}

void ProtocolSelector::go_away() {
  v2_.go_away();
  v1_.go_away();
}

Session::Stats ProtocolSelector::stats() {
  Session::Stats stats = current_->stats();
  stats.sessions = v2_.stats().sessions + v1_.stats().sessions;
  return stats;
}

}  // namespace virtproxy
