#include <algorithm>
#include <cstring>

#include "core/assert.h"
#include "core/v2/session.h"
#include "core/wire/little_endian.h"

namespace virtproxy {
namespace {

// Streams whose pending facts are written in one batch. Each may also lead to an event, and
// thousands of events would take the driver longer than other channels may wait.
constexpr unsigned kMostFacts = 512;

}  // namespace

uint32_t V2Session::send_frame_limit() const {
  return std::min(handshake_.peer().max_frame, config_.limits.max_frame);
}

bool V2Session::wants_to_write(Instant now) const {
  if (handshake_.due(now)) return true;
  if (!handshake_.may_speak()) return false;
  return !control_.empty() || data_may_go() || ack_due() || ping_due_ || pong_due_ ||
         going_away_due();
}

// While no stream is open, an end of 2010 may have replaced the peer behind a device. Such an end
// never finds a packet again after bytes that are not whole packets of its size. So an idle session
// there counts its frames in a HELLO, and sends nothing when it ends: the next session sends HELLO.
bool V2Session::hides_replacement() const { return uses_trailers() && streams_.size() == 0; }

bool V2Session::going_away_due() const {
  return going_away_ && !going_away_sent_ && !hides_replacement();
}

const Batch& V2Session::plan(uint64_t bytes, Instant now, Events& events) {
  batch_.clear();
  head_at_ = 0;
  if (ping_due_ && handshake_.may_speak() && hides_replacement()) {
    ping_due_ = uncounted_ = false;
    handshake_.repeat(now);
  }
  while (handshake_.due(now)) put_hello(handshake_.take(frames_sent_, now));
  const uint64_t greeted = batch_.size;
  if (handshake_.may_speak()) {
    put_session_facts();
    // Control is written first, and leaves a quarter to data: neither can starve the other.
    const uint64_t control_limit = data_may_go() ? bytes - bytes / 4 : bytes;
    for (unsigned left = kMostFacts; left > 0 && !control_.empty() && batch_.size < control_limit;
         --left) {
      const uint32_t slot = control_.front();
      control_.erase(streams_, slot);
      put_stream_facts(slot, events);
    }
    const uint64_t room = std::min(bytes, batch_.size + inflight_.available());
    if (batch_.size < room) put_data_frames(room, events);
  }
  close_frame({}, 0, false);
  if (batch_.size > greeted) inflight_.sent(batch_.size - greeted, now);
  if (scheduler_.empty()) inflight_.ran_dry();
  return batch_;
}

void V2Session::put_data_frames(uint64_t bytes, Events& events) {
  scheduler_.begin(bytes - batch_.size);
  for (;;) {
    const auto turn = scheduler_.next(streams_);
    if (turn.slot == IndexLink::kNone) return;
    Stream& stream = streams_.at(turn.slot);
    const auto size =
        static_cast<uint32_t>(std::min<uint64_t>({turn.bytes, stream.queued, send_frame_limit()}));
    const uint64_t before = batch_.size;
    if (stream.open_due) {
      control_.erase(streams_, turn.slot);
      put_stream_facts(turn.slot, events);
    }
    put_data(turn.slot, size);
    const bool more = stream.queued > 0;
    // A RESET_AT takes the stream off the scheduler, so it waits for the next batch.
    if (stream.reset_at_due) {
      schedule(turn.slot);
    } else if (stream.control_pending()) {
      if (stream.control_link.linked) control_.erase(streams_, turn.slot);
      put_stream_facts(turn.slot, events);
    }
    // What is written beside the payload counts against the batch, not against the stream.
    const auto overhead = static_cast<uint32_t>(batch_.size - before - size);
    scheduler_.sent(streams_, turn.slot, size, overhead, more);
  }
}

void V2Session::put_hello(const Hello& hello) {
  const size_t at = batch_.heads.size();
  batch_.heads.resize(at + kHelloSize);
  encode_hello(hello, batch_.heads.data() + at);
  batch_.size += kHelloSize;
}

void V2Session::put_frame(const FrameHeader& header, std::span<const std::byte> payload) {
  const size_t at = batch_.heads.size();
  const bool has_trailer = uses_trailers() && !payload.empty();
  batch_.heads.resize(at + kHeaderSize + payload.size() + (has_trailer ? kTrailerSize : 0));
  std::byte* out = batch_.heads.data() + at;
  encode_header(header, send_key_, out);
  if (!payload.empty()) std::memcpy(out + kHeaderSize, payload.data(), payload.size());
  if (has_trailer) {
    const size_t covered = kHeaderSize + payload.size();
    store_le(out + covered, trailer_for({out, covered}));
  }
  batch_.size += batch_.heads.size() - at;
  ++frames_sent_;
  // PING and PONG report counts: if they were counted themselves, they would never end.
  uncounted_ |= header.type != FrameType::kPing && header.type != FrameType::kPong;
}

void V2Session::close_frame(StreamKey stream, uint32_t payload, bool has_trailer) {
  const auto end = static_cast<uint32_t>(batch_.heads.size());
  if (end == head_at_) return;
  batch_.frames.push_back({stream, head_at_, end - head_at_, payload, has_trailer});
  head_at_ = end;
}

void V2Session::put_data(uint32_t slot, uint32_t size) {
  Stream& stream = streams_.at(slot);
  VP_ASSERT(!stream.open_due && size > 0);
  const size_t at = batch_.heads.size();
  batch_.heads.resize(at + kHeaderSize);
  encode_header({FrameType::kData, stream.ours, stream.number, size, stream.sent}, send_key_,
                batch_.heads.data() + at);
  ++frames_sent_;
  stream.sent += size;
  stream.queued -= size;
  queued_ -= size;
  VP_ASSERT(stream.sent + stream.queued <= stream.send_limit);
  close_frame(streams_.key_at(slot), size, uses_trailers());
  batch_.size += kHeaderSize + size + (uses_trailers() ? kTrailerSize : 0);
}

void V2Session::put_session_facts() {
  if (going_away_due()) {
    put_frame({FrameType::kGoingAway, false, 0, 0, 0}, {});
    going_away_sent_ = true;
  }
  if (pong_due_) {
    put_frame({FrameType::kPong, false, 0, 0, *pong_due_}, {});
    pong_due_.reset();
  }
  if (ack_due()) {
    put_frame({FrameType::kAck, false, 0, 0, bytes_received_}, {});
    bytes_acknowledged_ = bytes_received_;
  }
  if (ping_due_) {
    put_frame({FrameType::kPing, false, 0, 0, frames_sent_}, {});
    ping_due_ = uncounted_ = false;
  }
}

// Writes every pending fact of a stream, in the order that the peer needs.
void V2Session::put_stream_facts(uint32_t slot, Events& events) {
  Stream& stream = streams_.at(slot);
  const auto put = [&](FrameType type, uint64_t argument, std::span<const std::byte> payload) {
    put_frame({type, stream.ours, stream.number, static_cast<uint32_t>(payload.size()), argument},
              payload);
  };
  if (stream.open_due) {
    put(FrameType::kOpen, stream.granted, {stream.open_payload.data(), stream.open_length});
    stream.open_due = stream.credit_due = false;
  }
  if (stream.credit_due) {
    put(FrameType::kCredit, stream.granted, {});
    stream.credit_due = false;
  }
  if (stream.end_due && stream.queued == 0) {
    put(FrameType::kEnd, stream.sent, {});
    stream.end_due = false;
    stream.end_sent = true;
  }
  if (stream.done_due) {
    put(FrameType::kDone, stream.received, {});
    stream.done_due = false;
    stream.done_sent = true;
  }
  if (stream.reset_at_due && stream.queued == 0) {
    put(FrameType::kResetAt, stream.sent, {});
    kill(slot);
    stream.reset_sent = true;
    events.push_back(
        {.kind = Event::Kind::kReset, .fault = Fault::kAborted, .stream = streams_.key_at(slot)});
  }
  if (stream.reset_due) {
    put(FrameType::kReset, static_cast<uint64_t>(stream.reset_fault), {});
    stream.reset_due = false;
    stream.reset_sent = true;
  }
  release_if_over(slot, events);
}

}  // namespace virtproxy
