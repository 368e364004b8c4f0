#include <algorithm>
#include <array>

#include "core/assert.h"
#include "core/v2/session.h"
#include "core/wire/little_endian.h"

namespace virtproxy {

size_t V2Session::input(std::span<const std::byte> bytes, Instant now, Events& events) {
  VP_ASSERT(handshake_.state() != Handshake::State::kDown);
  return up() ? input_established(bytes, now, events) : input_waiting(bytes, now, events);
}

// Skips what is not a HELLO. Returns behind the HELLO that establishes the session.
size_t V2Session::input_waiting(std::span<const std::byte> bytes, Instant now, Events& events) {
  size_t used = 0;
  for (;;) {
    const HelloSearch search = find_hello(bytes.subspan(used));
    if (!search.hello) return used + search.skip;
    used += search.at + kHelloSize;
    on_hello(*search.hello, now, events);
    if (up()) return used;
  }
}

void V2Session::on_hello(const Hello& hello, Instant now, Events& events) {
  if (!speaks_our_version(hello)) {
    events.push_back({.kind = Event::Kind::kNoVersion, .fault = Fault::kNoCommonVersion});
  } else if (handshake_.on_hello(hello, now)) {
    establish(now, events);
  }
}

size_t V2Session::input_established(std::span<const std::byte> bytes, Instant now, Events& events) {
  for (size_t used = 0;;) {
    if (used == bytes.size()) return used;
    if (arriving_.left > 0) {
      used += take_payload(bytes.subspan(used), events);
      continue;
    }
    const Step step = this->step(bytes.subspan(used), now, events);
    used += step.used;
    if (step.fault != Fault::kNone) fail(step, now, events);
    if (step.fault != Fault::kNone || step.used == 0) return used;
  }
}

V2Session::Step V2Session::step(std::span<const std::byte> bytes, Instant now, Events& events) {
  if (bytes[0] == std::byte{1}) return step_hello(bytes, now);
  if (bytes.size() < kHeaderSize) return {};

  FrameHeader header;
  Subject subject;
  Fault fault = decode_header(bytes.data(), receive_key_, header);
  if (fault == Fault::kNone) fault = check_frame(header, subject);
  if (fault != Fault::kNone) return {.fault = fault};

  const bool whole = uses_trailers() || header.type != FrameType::kData;
  const bool has_trailer = uses_trailers() && header.length > 0;
  const size_t covered = kHeaderSize + (whole ? header.length : 0);
  const size_t size = covered + (has_trailer ? kTrailerSize : 0);
  if (bytes.size() < size) return has_trailer ? step_unfinished(bytes, now) : Step{};
  if (has_trailer) {
    const uint64_t expected = frame_trailer(trailer_, bytes.first(covered), receive_key_);
    if (load_le<uint64_t>(bytes.data() + covered) != expected) return {.fault = Fault::kBadTrailer};
  }
  scanned_ = scanned_for_ping_ = 0;
  handshake_.clear_suspicion();

  fault = dispatch(header, bytes.subspan(kHeaderSize, covered - kHeaderSize), subject, now, events);
  if (fault != Fault::kNone) return {.fault = fault};
  ++frames_received_;
  bytes_received_ += size;
  return {.used = size};
}

V2Session::Step V2Session::step_hello(std::span<const std::byte> bytes, Instant now) {
  if (!may_begin_hello(bytes)) return {.fault = Fault::kBadHello};
  const bool complete = bytes.size() >= kHelloSize;
  const auto hello = complete ? decode_hello(bytes.data()) : std::nullopt;
  if (!hello) {
    // Asked in both cases, so that the fault does not depend on how the transport cut the bytes.
    const auto greeting = bytes.first(std::min(bytes.size(), kHelloSize));
    const bool torn = trailer_ == TrailerKind::kChecksum && contains_ping(greeting, 1);
    if (torn) return {.fault = Fault::kFrameLost};
    return {.fault = complete ? Fault::kBadHello : Fault::kNone};
  }
  scanned_ = scanned_for_ping_ = 0;
  switch (handshake_.between_frames(*hello, frames_received_, now)) {
    case Handshake::Meaning::kNothing:
      break;
    case Handshake::Meaning::kRestarted:
      return {.used = kHelloSize, .fault = Fault::kPeerRestarted, .successor = hello};
    case Handshake::Meaning::kFramesLost:
      return {.used = kHelloSize, .fault = Fault::kFrameLost};
  }
  return {.used = kHelloSize};
}

// Payload of a frame whose header was judged already. Returns the size of what is of that frame.
size_t V2Session::take_payload(std::span<const std::byte> bytes, Events& events) {
  const auto payload = bytes.first(std::min<size_t>(bytes.size(), arriving_.left));
  const StreamKey key = arriving_.stream;
  if (count_payload(static_cast<uint32_t>(payload.size()))) {
    events.push_back({.kind = Event::Kind::kData, .stream = key, .bytes = payload});
  }
  return payload.size();
}

void V2Session::spliced(uint32_t bytes) {
  const bool alive = count_payload(bytes);
  VP_ASSERT(alive);
}

// Counts payload of the arriving frame; false when no stream takes it.
bool V2Session::count_payload(uint32_t bytes) {
  VP_ASSERT(bytes <= arriving_.left);
  arriving_.left -= bytes;
  bytes_received_ += bytes;
  Stream* stream = attached(arriving_.stream);
  if (stream == nullptr) return false;
  count_received(*stream, bytes);
  return !stream->discards;
}

void V2Session::count_received(Stream& stream, uint64_t bytes) {
  stream.received += bytes;
  held_ += bytes;
  VP_ASSERT(stream.received <= stream.granted);
  if (stream.discards) drop_held(stream);
}

// The end of this frame is missing: it has not arrived yet, or its sender died while writing it,
// and a HELLO follows.
V2Session::Step V2Session::step_unfinished(std::span<const std::byte> frame, Instant now) {
  if (trailer_ == TrailerKind::kChecksum && contains_ping(frame, kHeaderSize)) {
    return {.fault = Fault::kFrameLost};
  }
  // A greeting that began in what was searched before is found again from its first byte.
  size_t from = std::min(scanned_, frame.size());
  for (;;) {
    const HelloSearch search = find_hello(frame.subspan(from));
    if (!search.hello) {
      scanned_ = from + search.skip;
      return {};
    }
    const size_t after = from + search.at + kHelloSize;
    // Bytes of the frame were lost, and waiting for its end would swallow what comes next.
    if (trailer_ == TrailerKind::kChecksum && handshake_.is_of_session(*search.hello)) {
      return {.fault = Fault::kFrameLost};
    }
    if (handshake_.suspect(*search.hello, now)) {
      return {.used = after,
              .fault = Fault::kPeerRestarted,
              .successor = search.hello,
              .answered = true};
    }
    from = after;
  }
}

// Whether a ping of this session lies inside an unfinished frame, or inside a greeting that is
// unfinished or damaged: then bytes of that were lost, and waiting for its end would swallow what
// comes next. No payload can forge the check. The ping may begin at `first` at the earliest.
bool V2Session::contains_ping(std::span<const std::byte> frame, size_t first) {
  static constexpr std::array<std::byte, 12> kBeginning{std::byte{0x16}};
  static_assert(kBeginning[0] == static_cast<std::byte>(FrameType::kPing));
  const std::string_view haystack(reinterpret_cast<const char*>(frame.data()), frame.size());
  const std::string_view needle(reinterpret_cast<const char*>(kBeginning.data()),
                                kBeginning.size());
  size_t from = std::max(scanned_for_ping_, first);
  for (;;) {
    const size_t at = haystack.find(needle, from);
    if (at == std::string_view::npos) {
      if (frame.size() >= needle.size()) from = std::max(from, frame.size() - needle.size() + 1);
      break;
    }
    from = at;
    if (frame.size() - at < kHeaderSize) break;
    FrameHeader header;
    if (decode_header(frame.data() + at, receive_key_, header) == Fault::kNone) return true;
    ++from;
  }
  scanned_for_ping_ = from;
  return false;
}

// What the header of a frame alone decides. `subject` is set for frames of an open stream.
Fault V2Session::check_frame(const FrameHeader& header, Subject& subject) {
  const bool of_session = header.type == FrameType::kPing || header.type == FrameType::kPong ||
                          header.type == FrameType::kAck || header.type == FrameType::kGoingAway;
  const bool has_payload = header.type == FrameType::kOpen || header.type == FrameType::kData;
  if (header.type == FrameType::kResetAt && !reliable_reset_) return Fault::kUnknownFrame;
  if (!has_payload && header.length != 0) return Fault::kBadLength;
  if (of_session) {
    const bool sane = header.stream == 0 && !header.opened_by_sender;
    return sane ? Fault::kNone : Fault::kBadStreamId;
  }
  if (header.type == FrameType::kOpen) {
    if (!header.opened_by_sender) return Fault::kBadStreamId;
    const bool sane = header.length > 4 && header.length <= protocol_limits::kMaxOpenPayload;
    return sane ? Fault::kNone : Fault::kBadLength;
  }
  if (header.type == FrameType::kData &&
      (header.length == 0 || header.length > config_.limits.max_frame)) {
    return Fault::kBadLength;
  }

  const auto found = (header.opened_by_sender ? theirs_ : ours_).find(header.stream);
  if (found.standing == StreamIds::Standing::kOver) {
    // Both ends may reset a stream at once; then the second reset finds it gone.
    const bool reset = header.type == FrameType::kReset || header.type == FrameType::kResetAt;
    return reset ? Fault::kNone : Fault::kUnknownStream;
  }
  if (found.standing == StreamIds::Standing::kNever) return Fault::kUnknownStream;
  subject = {&streams_.at(found.local), found.local};
  const Stream& stream = *subject.stream;
  if (stream.open_due || stream.reset_at_received) return Fault::kUnknownStream;
  return header.type == FrameType::kData ? check_data(header, stream) : Fault::kNone;
}

Fault V2Session::check_data(const FrameHeader& header, const Stream& stream) const {
  if (stream.dead()) return Fault::kNone;
  if (stream.end_received) return Fault::kDataAfterEnd;
  if (header.argument != stream.received) return Fault::kBadOffset;
  if (header.length > stream.granted - stream.received) return Fault::kCreditExceeded;
  return Fault::kNone;
}

Fault V2Session::dispatch(const FrameHeader& header, std::span<const std::byte> payload,
                          const Subject& subject, Instant now, Events& events) {
  switch (header.type) {
    case FrameType::kOpen:
      return on_open(header, payload, events);
    case FrameType::kData: {
      const StreamKey key = streams_.key_at(subject.local);
      if (!uses_trailers()) {
        arriving_ = {key, header.length};
      } else if (!subject.stream->dead()) {
        on_data(*subject.stream, key, payload, events);
      }
      return Fault::kNone;
    }
    case FrameType::kPing:
      if (header.argument != frames_received_) return Fault::kFrameLost;
      pong_due_ = header.argument;
      return Fault::kNone;
    case FrameType::kPong:
      probing_ = false;
      return Fault::kNone;
    case FrameType::kAck:
      return inflight_.acknowledge(header.argument, now) ? Fault::kNone : Fault::kBadAck;
    case FrameType::kGoingAway:
      if (!peer_going_away_) events.push_back({.kind = Event::Kind::kGoingAway});
      peer_going_away_ = true;
      return Fault::kNone;
    case FrameType::kEnd:
    case FrameType::kDone:
    case FrameType::kReset:
    case FrameType::kResetAt:
    case FrameType::kCredit:
      break;
  }
  if (subject.stream == nullptr) return Fault::kNone;
  const uint32_t local = subject.local;
  Fault fault = Fault::kNone;
  if (header.type == FrameType::kEnd) fault = on_end(header, local, events);
  if (header.type == FrameType::kDone) fault = on_done(header, *subject.stream);
  if (header.type == FrameType::kReset) {
    on_reset(local, fault_from_reset_code(header.argument), events);
  }
  if (header.type == FrameType::kResetAt) fault = on_reset_at(header, local, events);
  if (header.type == FrameType::kCredit) fault = on_credit(header, local, events);
  if (fault == Fault::kNone) release_if_over(local, events);
  return fault;
}

Fault V2Session::on_open(const FrameHeader& header, std::span<const std::byte> payload,
                         Events& events) {
  const auto priority = load_le<uint8_t>(payload.data());
  const auto service_size = load_le<uint8_t>(payload.data() + 1);
  const auto metadata_size = load_le<uint8_t>(payload.data() + 2);
  const bool sane = priority < kPriorities && load_le<uint8_t>(payload.data() + 3) == 0 &&
                    service_size > 0 && service_size <= protocol_limits::kMaxService &&
                    metadata_size <= protocol_limits::kMaxMetadata &&
                    payload.size() == 4u + service_size + metadata_size &&
                    header.argument <= protocol_limits::kMaxWindow;
  if (!sane) return Fault::kBadOpen;
  const Fault fault = theirs_.admit(header.stream, config_.limits.max_streams);
  if (fault != Fault::kNone) return fault;

  const bool room = live_ < config_.limits.max_streams;
  const StreamKey key =
      add_stream(header.stream, false, static_cast<Priority>(priority), header.argument);
  if (!room || going_away_) {
    reset(key, going_away_ ? Fault::kGoingAway : Fault::kTooManyStreams, events);
    return Fault::kNone;
  }
  events.push_back({.kind = Event::Kind::kOpened,
                    .priority = static_cast<Priority>(priority),
                    .stream = key,
                    .bytes = payload.subspan(4u + service_size),
                    .service = {reinterpret_cast<const char*>(payload.data()) + 4, service_size}});
  return Fault::kNone;
}

void V2Session::on_data(Stream& stream, StreamKey key, std::span<const std::byte> payload,
                        Events& events) {
  count_received(stream, payload.size());
  if (stream.discards) return;
  events.push_back({.kind = Event::Kind::kData, .stream = key, .bytes = payload});
}

Fault V2Session::on_end(const FrameHeader& header, uint32_t local, Events& events) {
  Stream& stream = streams_.at(local);
  if (stream.end_received) return Fault::kDataAfterEnd;
  if (stream.dead()) {
    stream.end_received = true;
    return Fault::kNone;
  }
  if (header.argument != stream.received) return Fault::kBadOffset;
  stream.end_received = true;
  end_grant(local);
  if (!stream.discards) {
    events.push_back({.kind = Event::Kind::kEnd, .stream = streams_.key_at(local)});
  }
  return Fault::kNone;
}

// No more bytes come: what was granted beyond those received returns to the pool.
void V2Session::end_grant(uint32_t slot) {
  Stream& stream = streams_.at(slot);
  const uint64_t before = stream.borrowed(config_.limits.initial_window);
  stream.granted = stream.received;
  stream.credit_due = false;
  if (stream.control_link.linked && !stream.control_pending()) control_.erase(streams_, slot);
  credit_pool_.change_borrowed(before, stream.borrowed(config_.limits.initial_window));
}

Fault V2Session::on_done(const FrameHeader& header, Stream& stream) {
  if (stream.done_received) return Fault::kBadOffset;
  if (!stream.dead() && (!stream.end_sent || header.argument != stream.sent)) {
    return Fault::kBadOffset;
  }
  stream.done_received = true;
  return Fault::kNone;
}

void V2Session::on_reset(uint32_t local, Fault fault, Events& events) {
  Stream& stream = streams_.at(local);
  if (!stream.dead()) {
    events.push_back(
        {.kind = Event::Kind::kReset, .fault = fault, .stream = streams_.key_at(local)});
    kill(local);
    stream.reset_due = true;
    stream.reset_fault = fault;
  }
  stream.reset_received = true;
  schedule(local);
}

// The peer's application broke off after so many bytes. If ours has broken off too, there is no
// socket to deliver them to.
Fault V2Session::on_reset_at(const FrameHeader& header, uint32_t local, Events& events) {
  Stream& stream = streams_.at(local);
  if (!stream.dead() && header.argument != stream.received) return Fault::kBadOffset;
  if (stream.dead() || stream.discards) {
    on_reset(local, Fault::kAborted, events);
    return Fault::kNone;
  }
  stream.reset_at_received = true;
  scheduler_.remove(streams_, local);
  drop_queued(stream);
  stream.end_due = stream.blocked = false;
  end_grant(local);
  events.push_back(
      {.kind = Event::Kind::kAborted, .fault = Fault::kAborted, .stream = streams_.key_at(local)});
  return Fault::kNone;
}

Fault V2Session::on_credit(const FrameHeader& header, uint32_t local, Events& events) {
  Stream& stream = streams_.at(local);
  if (stream.dead()) return Fault::kNone;
  const bool sane = header.argument >= stream.send_limit &&
                    header.argument - stream.sent <= protocol_limits::kMaxWindow &&
                    header.argument <= protocol_limits::kMaxOffset;
  if (!sane) return Fault::kCreditShrunk;
  stream.send_limit = header.argument;
  if (stream.blocked && stream.credit_left() > 0) {
    stream.blocked = false;
    events.push_back({.kind = Event::Kind::kCredit, .stream = streams_.key_at(local)});
  }
  return Fault::kNone;
}

}  // namespace virtproxy
