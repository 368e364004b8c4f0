#include "core/v2/session.h"

#include <algorithm>
#include <cstring>

#include "core/assert.h"
#include "core/wire/little_endian.h"

namespace virtproxy {
namespace {

using std::chrono::seconds;

// Restarts of the peer that cost it nothing. After them each restart is answered later, like a
// fault that ends a session.
constexpr unsigned kFreeRestarts = 4;

// On channels that may lose bytes, a frame that was lost before a pause is found by a ping, which
// has the number of frames before it.
constexpr Duration kPingInterval = seconds(2);

// Bytes in flight that keep both ends of a fast local channel busy. A peer that asks for small
// frames is at the end of a slow line, where they are fewer. Both ends derive both values from the
// smaller of their frame limits. The limiter never goes below one and a half report intervals, so
// that a report becomes due before it holds anything back.
constexpr uint64_t kLocalInflight = 512 * 1024;
constexpr uint64_t kFramesInFlight = 16;
constexpr uint64_t kMostUnacknowledged = 64 * 1024;

uint64_t local_inflight(uint32_t frame) {
  return std::min(kLocalInflight, kFramesInFlight * frame);
}

uint64_t ack_interval(uint32_t frame) {
  return std::min<uint64_t>(kMostUnacknowledged, uint64_t{4} * frame);
}

Hello identity_of(const SessionConfig& config) {
  Hello hello;
  hello.supported = config.supported_features;
  // Wanted wherever it is supported: it costs nothing.
  hello.wanted = config.wanted_features | (config.supported_features & feature::kReliableReset);
  hello.max_streams = config.limits.max_streams;
  hello.initial_window = config.limits.initial_window;
  hello.max_frame = config.limits.max_frame;
  return hello;
}

uint64_t capacity_of(const SessionLimits& limits) {
  const uint64_t promised = static_cast<uint64_t>(limits.initial_window) * limits.max_streams;
  VP_ASSERT(limits.max_streams > 0 && limits.max_streams <= kMaxSlots);
  VP_ASSERT(limits.initial_window > 0 && promised <= limits.receive_budget);
  VP_ASSERT(limits.max_window >= limits.initial_window &&
            limits.max_window <= protocol_limits::kMaxWindow);
  VP_ASSERT(limits.max_frame >= protocol_limits::kMinFrame &&
            limits.max_frame <= protocol_limits::kMaxFrame);
  return limits.receive_budget - promised;
}

}  // namespace

V2Session::V2Session(const SessionConfig& config)
    : config_(config),
      handshake_(identity_of(config), config.epoch_key),
      credit_pool_(capacity_of(config.limits)),
      scheduler_(config.quantum) {
  streams_.reserve(config.limits.max_streams);
}

// --- the link ---------------------------------------------------------------------------------

void V2Session::want_features(uint64_t features) {
  VP_ASSERT(handshake_.state() == Handshake::State::kDown);
  config_.wanted_features = features;
  handshake_.set_identity(identity_of(config_));
}

void V2Session::transport_up(Instant now, Duration backoff) {
  VP_ASSERT(handshake_.state() == Handshake::State::kDown);
  backoff_.link_began();
  handshake_.start(now, backoff);
}

void V2Session::transport_down(Events& events) {
  const bool was_up = up();
  handshake_.stop();
  forget_streams();
  if (was_up) events.push_back({.kind = Event::Kind::kDown, .fault = Fault::kTransportLost});
}

void V2Session::establish(Instant now, Events& events) {
  const Hello& peer = handshake_.peer();
  send_key_ = direction_key(handshake_.epoch(), peer.epoch);
  receive_key_ = direction_key(peer.epoch, handshake_.epoch());
  const uint64_t both = config_.supported_features & peer.supported;
  const uint64_t wanted = (config_.wanted_features | peer.wanted) & both;
  reliable_reset_ = (both & feature::kReliableReset) != 0;
  trailer_ = (wanted & feature::kChecksumTrailer) != 0 ? TrailerKind::kChecksum
             : (wanted & feature::kCommitTrailer) != 0 ? TrailerKind::kCommit
                                                       : TrailerKind::kNone;
  frames_sent_ = 0;
  frames_received_ = 0;
  // A quantum larger than a frame is a multiple of it, so that no turn ends with a small frame.
  const uint32_t frame = send_frame_limit();
  const uint32_t quantum = config_.quantum;
  scheduler_ = Scheduler<Stream>(quantum > frame ? quantum - quantum % frame : quantum);
  inflight_ = InflightLimiter(local_inflight(frame), ack_interval(frame));
  bytes_received_ = bytes_acknowledged_ = 0;
  ack_interval_ = ack_interval(frame);
  going_away_sent_ = false;
  peer_going_away_ = false;
  pong_due_.reset();
  ping_due_ = probing_ = false;
  ping_at_.reset();
  uncounted_ = false;
  if (trailer_ == TrailerKind::kChecksum) ping_at_ = now + kPingInterval;
  backoff_.session_began(now);
  arriving_ = {};
  scanned_ = scanned_for_ping_ = 0;
  ++sessions_;
  events.push_back({.kind = Event::Kind::kUp});
}

void V2Session::fail(const Step& step, Instant now, Events& events) {
  VP_ASSERT(fault_row(step.fault).scope == FaultScope::kSession);
  forget_streams();
  events.push_back({.kind = Event::Kind::kDown, .fault = step.fault});

  const unsigned free = step.fault == Fault::kPeerRestarted ? kFreeRestarts : 0;
  const Duration backoff = backoff_.fault(now, free);
  if (backoff == Duration::zero() && step.answered && speaks_our_version(*step.successor)) {
    handshake_.adopt(*step.successor, now);
    establish(now, events);
    return;
  }
  handshake_.restart(now, backoff, step.successor);
}

void V2Session::forgive(Instant now) {
  backoff_.forgive();
  handshake_.end_backoff(now);
}

// All at once: a peer chooses how many there are, and when they end.
void V2Session::forget_streams() {
  streams_.clear();
  ours_.clear();
  theirs_.clear();
  scheduler_ = Scheduler<Stream>(config_.quantum);
  control_ = {};
  credit_pool_.forget_borrowed();
  live_ = 0;
  held_ = queued_ = 0;
}

// --- streams ----------------------------------------------------------------------------------

StreamKey V2Session::add_stream(uint32_t number, bool ours, Priority priority,
                                uint64_t send_limit) {
  Stream stream;
  stream.number = number;
  stream.ours = ours;
  stream.priority = priority;
  stream.send_limit = send_limit;
  stream.window = config_.limits.initial_window;
  stream.granted = config_.limits.initial_window;
  const StreamKey key = streams_.insert(stream);
  (ours ? ours_ : theirs_).bind(number, key.slot);
  ++live_;
  return key;
}

std::optional<StreamKey> V2Session::open(std::string_view service, Priority priority,
                                         std::span<const std::byte> metadata) {
  VP_ASSERT(!service.empty() && service.size() <= protocol_limits::kMaxService);
  VP_ASSERT(metadata.size() <= protocol_limits::kMaxMetadata);
  if (!up() || peer_going_away_ || live_ >= config_.limits.max_streams) return std::nullopt;
  const uint32_t slots = std::min(config_.limits.max_streams, handshake_.peer().max_streams);
  const auto number = ours_.take(slots);
  if (!number) return std::nullopt;

  const StreamKey key = add_stream(*number, true, priority, handshake_.peer().initial_window);
  Stream& stream = streams_.at(key.slot);
  const size_t length = 4 + service.size() + metadata.size();
  std::byte* payload = stream.open_payload.data();
  store_le(payload, static_cast<uint8_t>(priority));
  store_le(payload + 1, static_cast<uint8_t>(service.size()));
  store_le(payload + 2, static_cast<uint8_t>(metadata.size()));
  std::memcpy(payload + 4, service.data(), service.size());
  if (!metadata.empty())
    std::memcpy(payload + 4 + service.size(), metadata.data(), metadata.size());
  stream.open_length = static_cast<uint8_t>(length);
  stream.open_due = true;
  schedule(key.slot);
  return key;
}

// The stream, or nullptr if it is over or dead. The peer may have ended it by a frame that was read
// together with the one that the driver handles now.
Stream* V2Session::attached(StreamKey key) {
  Stream* stream = streams_.find(key);
  return stream != nullptr && !stream->dead() ? stream : nullptr;
}

std::optional<uint32_t> V2Session::number(StreamKey key) {
  const Stream* const stream = attached(key);
  return stream == nullptr ? std::nullopt : std::optional(stream->number);
}

void V2Session::schedule(uint32_t slot) {
  Stream& stream = streams_.at(slot);
  if (stream.control_pending() && !stream.control_link.linked) control_.push_back(streams_, slot);
}

uint64_t V2Session::request_credit(StreamKey key) {
  Stream* stream = attached(key);
  if (stream == nullptr || stream->end_due || stream->end_sent) return 0;
  if (stream->reset_at_due || stream->reset_at_received) return 0;
  stream->blocked = stream->credit_left() == 0;
  return stream->credit_left();
}

void V2Session::queue(StreamKey key, uint64_t bytes) {
  Stream* stream = attached(key);
  if (stream == nullptr || stream->reset_at_received) return;
  VP_ASSERT(bytes > 0 && bytes <= stream->credit_left() && !stream->reset_at_due);
  VP_ASSERT(!stream->end_due && !stream->end_sent);
  stream->queued += bytes;
  queued_ += bytes;
  scheduler_.add(streams_, key.slot);
}

void V2Session::end(StreamKey key) {
  Stream* stream = attached(key);
  if (stream == nullptr || stream->reset_at_received) return;
  VP_ASSERT(!stream->end_due && !stream->end_sent && !stream->reset_at_due);
  stream->end_due = true;
  schedule(key.slot);
}

void V2Session::reset(StreamKey key, Fault fault, Events& events) {
  Stream* stream = attached(key);
  VP_ASSERT(fault != Fault::kNone && fault_row(fault).scope == FaultScope::kStream);
  if (stream == nullptr) return;
  if (stream->open_due) {
    // The peer does not know of it, and need not.
    if (stream->control_link.linked) control_.erase(streams_, key.slot);
    scheduler_.remove(streams_, key.slot);
    ours_.put_back(stream->number);
    erase_stream(key.slot);
    return;
  }
  kill(key.slot);
  stream->reset_due = true;
  stream->reset_fault = fault;
  stream->reset_received = stream->reset_at_received;
  schedule(key.slot);
  release_if_over(key.slot, events);
}

// The stream carries nothing any more: what is queued is dropped, and what it borrowed is returned.
void V2Session::kill(uint32_t slot) {
  Stream& stream = streams_.at(slot);
  VP_ASSERT(!stream.dead());
  credit_pool_.change_borrowed(stream.borrowed(config_.limits.initial_window), 0);
  --live_;
  held_ -= stream.held();
  scheduler_.remove(streams_, slot);
  if (stream.control_link.linked) control_.erase(streams_, slot);
  drop_queued(stream);
  stream.open_due = stream.credit_due = stream.end_due = stream.done_due = false;
  stream.reset_at_due = false;
}

bool V2Session::delivers_before_reset(StreamKey key) {
  const Stream* stream = attached(key);
  return reliable_reset_ && stream != nullptr && !stream->reset_at_received;
}

void V2Session::discard_input(StreamKey key) {
  Stream* stream = attached(key);
  if (stream == nullptr) return;
  stream->discards = true;
  drop_held(*stream);
}

void V2Session::drop_held(Stream& stream) {
  const uint64_t before = stream.borrowed(config_.limits.initial_window);
  held_ -= stream.held();
  stream.consumed = stream.received;
  credit_pool_.change_borrowed(before, stream.borrowed(config_.limits.initial_window));
}

void V2Session::drop_queued(Stream& stream) {
  queued_ -= stream.queued;
  stream.queued = 0;
}

bool V2Session::reset_after_data(StreamKey key, Events& events) {
  Stream* stream = attached(key);
  if (stream == nullptr) return true;
  const bool unheard_of = stream->open_due && stream->queued == 0;
  if (!reliable_reset_ || stream->reset_at_received || unheard_of) {
    reset(key, Fault::kAborted, events);
    return false;
  }
  discard_input(key);
  stream->reset_at_due = true;
  schedule(key.slot);
  return true;
}

void V2Session::consumed(StreamKey key, uint64_t bytes) {
  Stream* stream = attached(key);
  if (stream == nullptr || stream->discards) return;
  VP_ASSERT(bytes <= stream->held());
  const uint64_t before = stream->borrowed(config_.limits.initial_window);
  stream->consumed += bytes;
  held_ -= bytes;
  credit_pool_.change_borrowed(before, stream->borrowed(config_.limits.initial_window));
  grant(*stream);
  schedule(key.slot);
}

bool V2Session::credit_unaffected_by(StreamKey key, uint64_t bytes) {
  const Stream* stream = attached(key);
  return stream != nullptr && !stream->end_received && !renews(*stream, stream->consumed + bytes);
}

void V2Session::delivered(StreamKey key, Events& events) {
  Stream* stream = attached(key);
  if (stream == nullptr) return;
  VP_ASSERT(stream->end_received && stream->held() == 0 && !stream->done_due && !stream->done_sent);
  stream->done_due = true;
  schedule(key.slot);
  release_if_over(key.slot, events);
}

// A stream's credit is renewed once half of its window is used up.
bool V2Session::renews(const Stream& stream, uint64_t consumed) {
  return !stream.end_received && !stream.reset_at_received &&
         stream.granted - consumed <= stream.window / 2;
}

// The window doubles while the stream's reader keeps pace, up to the stream's share of the memory.
void V2Session::grant(Stream& stream) {
  if (!renews(stream, stream.consumed)) return;
  const uint32_t initial = config_.limits.initial_window;
  uint64_t window = stream.window;
  if (stream.held() <= window / 4) window *= 2;
  const uint64_t most = initial + credit_pool_.share(stream.borrowed(initial));
  stream.window =
      static_cast<uint32_t>(std::min<uint64_t>({window, config_.limits.max_window, most}));
  set_grant(stream, stream.consumed + stream.window);
}

void V2Session::set_grant(Stream& stream, uint64_t limit) {
  if (limit <= stream.granted) return;
  const uint64_t before = stream.borrowed(config_.limits.initial_window);
  stream.granted = limit;
  stream.credit_due = true;
  credit_pool_.change_borrowed(before, stream.borrowed(config_.limits.initial_window));
}

void V2Session::release_if_over(uint32_t slot, Events& events) {
  Stream& stream = streams_.at(slot);
  if (!stream.over()) return;
  if (!stream.dead()) {
    events.push_back({.kind = Event::Kind::kClosed, .stream = streams_.key_at(slot)});
  }
  scheduler_.remove(streams_, slot);
  if (stream.control_link.linked) control_.erase(streams_, slot);
  (stream.ours ? ours_ : theirs_).release(stream.number, stream.ours);
  erase_stream(slot);
}

void V2Session::erase_stream(uint32_t slot) {
  Stream& stream = streams_.at(slot);
  if (!stream.dead()) {
    credit_pool_.change_borrowed(stream.borrowed(config_.limits.initial_window), 0);
    --live_;
    held_ -= stream.held();
    drop_queued(stream);
  }
  streams_.erase(streams_.key_at(slot));
}

void V2Session::go_away() { going_away_ = true; }

// --- time -------------------------------------------------------------------------------------

std::optional<Instant> V2Session::deadline() const {
  std::optional<Instant> at = handshake_.due_at();
  if (up() && ping_at_ && !ping_due_ && (streams_.size() > 0 || uncounted_)) {
    at = at ? std::min(*at, *ping_at_) : *ping_at_;
  }
  return at;
}

void V2Session::tick(Instant now, Events&) {
  if (up() && ping_at_ && *ping_at_ <= now && (streams_.size() > 0 || uncounted_)) {
    ping_due_ = true;
    ping_at_ = now + kPingInterval;
  }
}

Session::Stats V2Session::stats() {
  Stats stats;
  stats.borrowed = credit_pool_.borrowed();
  stats.in_flight = inflight_.in_flight();
  stats.round_trip = inflight_.round_trip();
  stats.streams = streams_.size();
  stats.sessions = sessions_;
  stats.held = held_;
  stats.queued = queued_;
  return stats;
}

template class Scheduler<Stream>;

}  // namespace virtproxy
