#include <algorithm>
#include <cstring>

#include "core/assert.h"
#include "core/v1/session.h"

namespace virtproxy {
bool V1Session::wants_to_write(Instant) const {
  return up_ && (!closes_.empty() || !control_.empty() || !scheduler_.empty());
}

const Batch& V1Session::plan(uint64_t bytes, Instant now, Events& events) {
  batch_.clear();
  head_at_ = 0;
  // Control is written first, and leaves a quarter to data: neither can starve the other.
  const uint64_t control_limit = scheduler_.empty() ? bytes : bytes - bytes / 4;
  // CLOSE goes before INIT, because the peer may answer INIT with the number that is closed.
  while (!closes_.empty() && batch_.size < control_limit) {
    const Close close = closes_.front();
    const int32_t number = close.client >= 0 ? close.client : close.server;
    if (number >= 0) put_control(V1Message::kClose, close.client, close.server);
    if (closing_.find(number) == first_close_) closing_.erase(number);
    closes_.pop_front();
    ++first_close_;
  }
  while (!control_.empty() && batch_.size < control_limit) {
    const uint32_t slot = control_.front();
    control_.erase(streams_, slot);
    put_stream_facts(slot, now, events);
  }
  if (batch_.size < bytes) put_data_packets(bytes, now, events);
  close_frame({}, 0);
  unread_.wrote(batch_.size);
  return batch_;
}

void V1Session::put_data_packets(uint64_t bytes, Instant now, Events& events) {
  scheduler_.begin(bytes - batch_.size);
  for (;;) {
    const auto turn = scheduler_.next(streams_);
    if (turn.slot == IndexLink::kNone) return;
    V1Stream& stream = streams_.at(turn.slot);
    // A packet has the same size however little is in it, so the last one of a turn is filled.
    const uint64_t share = (turn.bytes + uint64_t{kV1MostData} - 1) / kV1MostData * kV1MostData;
    const auto size = static_cast<uint32_t>(std::min(share, stream.queued));
    const uint64_t before = batch_.size;
    if (stream.state == State::kAckDue) {
      if (stream.control_link.linked) control_.erase(streams_, turn.slot);
      put_stream_facts(turn.slot, now, events);
    }
    for (uint32_t left = size; left > 0;) {
      const uint32_t piece = std::min(left, kV1MostData);
      put_data(turn.slot, piece);
      left -= piece;
    }
    // What is written beside the data counts against the batch, not against the stream.
    const auto overhead = static_cast<uint32_t>(batch_.size - before - size);
    scheduler_.sent(streams_, turn.slot, size, overhead, stream.queued > 0);
    if (stream.blocked) {
      stream.blocked = false;
      events.push_back({.kind = Event::Kind::kCredit, .stream = streams_.key_at(turn.slot)});
    }
    schedule(turn.slot);
  }
}

std::byte* V1Session::put_head(size_t size) {
  const size_t at = batch_.heads.size();
  batch_.heads.resize(at + size);
  batch_.size += size;
  return batch_.heads.data() + at;
}

void V1Session::put_control(V1Message message, int32_t client, int32_t server) {
  encode_v1_control(message, client, server, put_head(kV1PacketSize));
}

// The padding behind the data of a packet is written in front of the next head.
void V1Session::put_data(uint32_t slot, uint32_t size) {
  V1Stream& stream = streams_.at(slot);
  VP_ASSERT(stream.state == State::kOpen && size > 0 && size <= stream.queued);
  const int32_t client = stream.opener ? stream.ours : stream.theirs;
  const int32_t server = stream.opener ? stream.theirs : stream.ours;
  encode_v1_data_head(stream.opener ? V1Type::kClient : V1Type::kServer, client, server, size,
                      put_head(kV1DataHead));
  stream.queued -= size;
  queued_ -= size;
  stream.sent = true;
  close_frame(streams_.key_at(slot), size);
  batch_.size += size;
  const size_t tail = v1_tail_size(size);
  encode_v1_tail({put_head(tail), tail});
}

void V1Session::close_frame(StreamKey stream, uint32_t payload) {
  const auto end = static_cast<uint32_t>(batch_.heads.size());
  if (end == head_at_) return;
  batch_.frames.push_back({stream, head_at_, end - head_at_, payload, false});
  head_at_ = end;
}

void V1Session::put_stream_facts(uint32_t slot, Instant now, Events& events) {
  V1Stream& stream = streams_.at(slot);
  if (stream.state == State::kInitDue) {
    encode_v1_init(stream.ours, {stream.service.data(), stream.service_size},
                   put_head(kV1PacketSize));
    stream.state = State::kInitSent;
    set_wait(slot, Wait::kAck, now + config_.v1.ack_timeout);
  } else if (stream.state == State::kAckDue) {
    put_control(V1Message::kAck, stream.theirs, stream.ours);
    stream.state = State::kOpen;
  }
  if (stream.control_pending()) finish_input(slot, now, events);
}

// Our application has ended its side and all of it is written. The other application learns of the
// end only by CLOSE, which also ends what it may still be sending. So CLOSE is sent at once for a
// service that sent last. A client that sent last gets kAnswerTime for the answer, and any other
// application gets kQuietTime, in case the other one is in the middle of something. Every packet of
// the peer renews that time.
//
// A client that leaves by itself once it has its answer may cross the CLOSE of its service, which
// then hits the next client with the same number. Where that was seen, such a CLOSE waits
// kLeaveTime.
void V1Session::finish_input(uint32_t slot, Instant now, Events& events) {
  const V1Stream& stream = streams_.at(slot);
  if (stream.broke_off) {
    say_close(stream);
    return abort_stream(slot, Fault::kAborted, events);
  }
  const bool silent = stream.received == 0 && !stream.spoke;
  if (!stream.opener && stream.spoke && !stream.peer_spoke_last) {
    if (leaving_ > 0) return set_wait(slot, Wait::kLeave, now + kLeaveTime);
    say_close(stream);
    return close_stream(slot, events);
  }
  const bool unanswered = stream.opener && !stream.peer_spoke_last && !silent;
  const Wait wait = unanswered ? Wait::kAnswer : Wait::kQuiet;
  set_wait(slot, wait, now + (unanswered ? kAnswerTime : kQuietTime));
}

}  // namespace virtproxy
