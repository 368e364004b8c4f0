#include <algorithm>
#include <cstring>

#include "core/assert.h"
#include "core/v1/session.h"

namespace virtproxy {
namespace {

// Stray bytes between two packets. More than these mean that packets are missing.
constexpr uint64_t kMostStray = 16;

}  // namespace

size_t V1Session::input(std::span<const std::byte> bytes, Instant now, Events& events) {
  VP_ASSERT(up_ && !hello_);
  peek_ = false;
  size_t used = 0;
  while (!hello_) {
    const auto rest = bytes.subspan(used);
    if (!in_step_) {
      const V1Search search = find_v1_packet(rest);
      used += search.at;
      skipped_ += search.at;
      unread_.used(search.at);
      if (!search.found) break;
      in_step_ = true;
      on_boundary_found(now, events);
      continue;
    }
    if (rest.size() < kV1PacketSize) break;
    if (has_v1_magic(rest.data())) {
      used += kV1PacketSize;
      unread_.used(kV1PacketSize);
      on_packet(rest.first(kV1PacketSize), now, events);
    } else {
      in_step_ = false;
      skipped_ = 0;
      std::memcpy(lost_head_.data(), rest.data(), lost_head_.size());
    }
  }
  return used;
}

// The bytes of a stream arrive complete and in order, or the stream is closed. One damaged packet
// still names the stream whose bytes it had, unless its number is not in use. After a larger gap
// every stream may have lost bytes.
void V1Session::on_boundary_found(Instant now, Events& events) {
  report_glitch(Glitch::kBytesSkipped, static_cast<int64_t>(skipped_), events);
  if (skipped_ <= kMostStray) return;
  const bool one = skipped_ >= kV1PacketSize && skipped_ <= kV1PacketSize + kMostStray;
  const V1Head head = decode_v1_head(lost_head_.data());
  if (one && (head.is_control() || head.is_data())) {
    uint32_t slot = 0;
    V1Stream* stream = named_by(head, slot);
    if (stream != nullptr && stream->state != State::kInitSent) {
      say_close(*stream);
      return abort_stream(slot, Fault::kAborted, events);
    }
    // A stray byte may be part of the number. Then the data was for another stream.
    if (head.is_control() || skipped_ == kV1PacketSize) return;
  }
  unsigned at_once = kMostEndsAtOnce;
  streams_.for_each([&](StreamKey key, V1Stream& stream) {
    if (stream.state != State::kOpen && stream.alias_count == 0) return;
    if (at_once == 0) return break_stream(key.slot, now);
    --at_once;
    say_close(stream);
    abort_stream(key.slot, Fault::kAborted, events);
  });
}

// The stream of ours that a packet is about, by the field that its type names.
V1Stream* V1Session::named_by(const V1Head& head, uint32_t& slot) {
  if (head.type == static_cast<uint32_t>(V1Type::kServer)) {
    return find_ours(head.data_client(), true, slot);
  }
  if (head.type == static_cast<uint32_t>(V1Type::kClient)) {
    return find_ours(head.data_server(), false, slot);
  }
  V1Stream* stream = find_ours(head.control_client(), true, slot);
  return stream != nullptr ? stream : find_ours(head.control_server(), false, slot);
}

void V1Session::on_packet(std::span<const std::byte> packet, Instant now, Events& events) {
  const V1Head head = decode_v1_head(packet.data());
  if (head.is_data()) return on_data(head, packet, now, events);
  if (head.is_control()) return on_control(head, packet.data(), now, events);
  report_glitch(Glitch::kUnknownType, head.type, events);
}

void V1Session::on_control(const V1Head& head, const std::byte* packet, Instant now,
                           Events& events) {
  switch (static_cast<V1Message>(head.message())) {
    case V1Message::kInit:
      return on_init(head.control_client(), packet, now, events);
    case V1Message::kAck:
      return on_ack(head.control_client(), head.control_server(), now, events);
    case V1Message::kClose:
      return on_close(head, now, events);
  }
  hello_ = decode_hello(packet);
  if (!hello_) report_glitch(Glitch::kUnknownMessage, head.message(), events);
}

// The numbers of a peer are descriptors of one process, for clients and servers alike. When it uses
// one again, the earlier stream with that number has ended. No CLOSE is sent, because that would
// hit the new stream; one that was not written yet is withdrawn.
void V1Session::close_earlier_bearer(int32_t number, Instant now, Events& events) {
  withdraw_close(number);
  for (const auto* bearers : {&clients_, &servers_}) {
    const auto bearer = bearers->find(number);
    if (!bearer) continue;
    report_glitch(Glitch::kNumberAgain, number, events);
    if (streams_.at(*bearer).broken_off()) unread_.note(number, now);
    abort_stream(*bearer, Fault::kAborted, events);
  }
}

// From this INIT on, a client number that is used again means the new client. The peer may not have
// read our ACKs for earlier clients with that number. When it does, it takes them for the new
// client's, and uses their numbers until it reads the right one.
void V1Session::inherit_numbers(V1Stream& stream, uint32_t slot, const V1Stream& earlier) {
  for (size_t i = 0; i < earlier.alias_count; ++i) stream.add_alias(earlier.aliases[i]);
  const bool told = earlier.state == State::kOpen || earlier.state == State::kBroken;
  if (told) stream.add_alias(earlier.ours);
  for (size_t i = 0; i < stream.alias_count; ++i) ours_.set(stream.aliases[i], slot);
}

void V1Session::on_init(int32_t client, const std::byte* packet, Instant now, Events& events) {
  if (client < 0) return report_glitch(Glitch::kBadClientNumber, client, events);
  V1Stream earlier;
  if (const auto found = clients_.find(client)) earlier = streams_.at(*found);
  close_earlier_bearer(client, now, events);
  if (unread_.take(client, now)) {
    report_glitch(Glitch::kForeignBytes, client, events);
    return answer_close(client, -1, events);
  }
  const auto service = v1_service(packet);
  if (!service) {
    report_glitch(Glitch::kBadServiceName, client, events);
    return answer_close(client, -1, events);
  }
  if (going_away_ || streams_.size() >= config_.limits.max_streams) {
    return answer_close(client, -1, events);
  }
  if (!may_answer()) return report_glitch(Glitch::kTooManyAnswers, client, events);
  const StreamKey key = add_stream(false, Priority::kNormal);
  streams_.at(key.slot).theirs = client;
  inherit_numbers(streams_.at(key.slot), key.slot, earlier);
  clients_.set(client, key.slot);
  events.push_back({.kind = Event::Kind::kOpened, .stream = key, .service = *service});
}

void V1Session::on_ack(int32_t client, int32_t server, Instant now, Events& events) {
  uint32_t slot = 0;
  V1Stream* stream = find_ours(client, true, slot);
  const bool open = stream != nullptr && stream->state == State::kOpen;
  if (server > 0 && !(open && server == stream->theirs)) close_earlier_bearer(server, now, events);
  if (stream == nullptr) {
    if (server <= 0) return;
    report_glitch(Glitch::kUnknownAck, client, events);
    return answer_close(-1, server, events);
  }
  if (open) {
    report_glitch(Glitch::kSecondAck, client, events);
    if (server > 0 && server != stream->theirs) answer_close(-1, server, events);
    return;
  }
  if (server <= 0) return abort_stream(slot, Fault::kRefused, events);
  if (unread_.take(server, now)) {
    report_glitch(Glitch::kForeignBytes, server, events);
    answer_close(-1, server, events);
    return abort_stream(slot, Fault::kAborted, events);
  }
  clear_wait(slot);
  stream->theirs = server;
  std::replace(closed_servers_.begin(), closed_servers_.end(), server, 0);
  servers_.set(server, slot);
  stream->state = State::kOpen;
  schedule(slot);
  if (stream->blocked) {
    stream->blocked = false;
    events.push_back({.kind = Event::Kind::kCredit, .stream = streams_.key_at(slot)});
  }
}

void V1Session::on_close(const V1Head& head, Instant now, Events& events) {
  uint32_t slot = 0;
  const V1Stream* stream = named_by(head, slot);
  if (stream == nullptr) {
    const bool crossed = head.control_client() < 0 && head.control_server() >= kFirstNumber;
    if (crossed) leaving_ = kLeavesExpected;
    return report_glitch(Glitch::kUnknownNumber, head.control_client(), events);
  }
  if (stream->wait == Wait::kLeave) leaving_ = kLeavesExpected;
  // It has left in the middle of our data, some of which may be in flight.
  if (stream->broken_off()) unread_.note(stream->theirs, now);
  // A stream that is named by an alias may have data already while its service is being connected.
  if (stream->state == State::kOpen || stream->received > 0) return close_stream(slot, events);
  abort_stream(slot, Fault::kRefused, events);
}

// A listener of 2010 keeps the services of an earlier session open, and goes on sending their data.
// CLOSE makes it close one, unless the number may be in an ACK that is in flight.
void V1Session::close_stray(int32_t server, Events& events) {
  if (server <= 0 || servers_.contains(server) || !list_of(Wait::kAck).empty()) return;
  const auto end = closed_servers_.end();
  if (std::find(closed_servers_.begin(), end, server) != end) return;
  note_closed(server);
  answer_close(-1, server, events);
}

void V1Session::note_closed(int32_t server) {
  closed_servers_[next_closed_] = server;
  next_closed_ = (next_closed_ + 1) % closed_servers_.size();
}

void V1Session::on_data(const V1Head& head, std::span<const std::byte> packet, Instant now,
                        Events& events) {
  uint32_t slot = 0;
  V1Stream* stream = named_by(head, slot);
  if (stream == nullptr || stream->state == State::kInitSent) {
    const bool to_client = head.type == static_cast<uint32_t>(V1Type::kServer);
    const auto early = to_client ? std::nullopt : clients_.find(head.data_client());
    // Data for an open stream under another number may be late. No server has a number of 0 or
    // less: the peer wrote that before it read our ACK.
    if (!early || (streams_.at(*early).state == State::kOpen && head.data_server() > 0)) {
      report_glitch(Glitch::kUnknownNumber, to_client ? head.data_client() : head.data_server(),
                    events);
      if (to_client) close_stray(head.data_server(), events);
      return;
    }
    report_glitch(Glitch::kDataBeforeAck, head.data_client(), events);
    say_close(streams_.at(*early));
    return abort_stream(*early, Fault::kAborted, events);
  }
  if (head.bytes() < 1 || head.bytes() > static_cast<int32_t>(kV1MostData)) {
    report_glitch(Glitch::kBadBytes, head.bytes(), events);
    say_close(*stream);
    return abort_stream(slot, Fault::kAborted, events);
  }
  const auto size = static_cast<size_t>(head.bytes());
  borrowed_ -= borrowed(*stream);
  stream->received += size;
  borrowed_ += borrowed(*stream);
  held_ += size;
  stream->peer_spoke_last = true;
  if (stream->discards) return consume(*stream, size);
  events.push_back({.kind = Event::Kind::kData,
                    .stream = streams_.key_at(slot),
                    .bytes = packet.subspan(kV1DataHead, size)});
  if (stream->wait != Wait::kNothing && stream->wait != Wait::kLeave) {
    set_wait(slot, Wait::kAnswer, now + kAnswerTime);
  }
  check_over(slot, now);
}

}  // namespace virtproxy
