// One session, and a peer whose every byte the test writes by hand.
#pragma once

#include <string_view>
#include <vector>

#include "tests/unit/core/pair.h"

namespace virtproxy::test {

class Puppet {
 public:
  explicit Puppet(const SessionConfig& config = config_with(7)) : session(config) {
    mine.epoch = 0x1111222233334444;
    mine.max_streams = 64;
    mine.initial_window = 4096;
    mine.max_frame = 65536;
  }

  // Greets; `mine` may be changed before.
  void establish() {
    session.transport_up(now);
    hear();
    ASSERT_EQ(hellos.size(), 1u);
    greet(hellos[0].epoch);
    ASSERT_TRUE(session.up());
    hear();
    events.clear();
  }
  void greet(uint64_t echo) {
    mine.echo = echo;
    mine.joined = false;
    say(hello_bytes(mine));
    send_key = direction_key(mine.epoch, echo);
    receive_key = direction_key(echo, mine.epoch);
  }

  Bytes frame(const FrameHeader& header, std::span<const std::byte> payload = {}) const {
    Bytes bytes(kHeaderSize);
    encode_header(header, send_key, bytes.data());
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    if (payload.empty() || trailer == TrailerKind::kNone) return bytes;
    const uint64_t seal = frame_trailer(trailer, bytes, send_key);
    bytes.resize(bytes.size() + kTrailerSize);
    store_le(bytes.data() + bytes.size() - kTrailerSize, seal);
    return bytes;
  }
  Bytes data(uint32_t stream, uint64_t offset, size_t size, bool mine_opened = true) const {
    return frame({FrameType::kData, mine_opened, stream, static_cast<uint32_t>(size), offset},
                 Bytes(size, std::byte{'x'}));
  }
  static Bytes open_payload(std::string_view service, size_t metadata = 0, uint8_t priority = 1) {
    Bytes payload(4 + service.size() + metadata);
    payload[0] = std::byte{priority};
    payload[1] = static_cast<std::byte>(service.size());
    payload[2] = static_cast<std::byte>(metadata);
    std::memcpy(payload.data() + 4, service.data(), service.size());
    return payload;
  }
  Bytes open(uint32_t stream, uint64_t credit = 4096) const {
    const Bytes payload = open_payload("echo");
    return frame({FrameType::kOpen, true, stream, static_cast<uint32_t>(payload.size()), credit},
                 payload);
  }

  // The session reads `bytes`; what it keeps stays in `kept`. `events` are those of this call.
  void say(const Bytes& bytes) {
    kept.insert(kept.end(), bytes.begin(), bytes.end());
    events.clear();
    const size_t used = feed(session, kept, now, events, [] { return true; });
    read_from.swap(kept);  // the spans of `events` point here
    kept.assign(read_from.begin() + static_cast<ptrdiff_t>(used), read_from.end());
  }

  // Everything the session writes now: greetings go to `hellos`, frames are returned.
  std::vector<FrameHeader> hear() {
    std::vector<FrameHeader> frames;
    while (session.wants_to_write(now)) {
      const Batch& batch = session.plan(1 << 20, now, events);
      for (const PlannedFrame& piece : batch.frames) parse(batch.head(piece), piece, frames);
    }
    return frames;
  }

  bool heard(FrameType type, const std::vector<FrameHeader>& frames) const {
    return std::any_of(frames.begin(), frames.end(),
                       [&](const FrameHeader& header) { return header.type == type; });
  }

  std::optional<Event> event(Event::Kind kind) const {
    for (const Event& e : events) {
      if (e.kind == kind) return e;
    }
    return std::nullopt;
  }
  // The fault that ended the session in the last say(), or kNone.
  Fault fault() const {
    const auto down = event(Event::Kind::kDown);
    return down ? down->fault : Fault::kNone;
  }

  V2Session session;
  Hello mine;
  DirectionKey send_key;
  DirectionKey receive_key;
  TrailerKind trailer = TrailerKind::kNone;
  Events events;
  Instant now = seconds(1);
  std::vector<Hello> hellos;
  Bytes kept;

 private:
  void parse(std::span<const std::byte> head, const PlannedFrame& piece,
             std::vector<FrameHeader>& frames) {
    while (!head.empty()) {
      if (head[0] == std::byte{1}) {
        const auto hello = decode_hello(head.data());
        ASSERT_TRUE(hello);
        hellos.push_back(*hello);
        head = head.subspan(kHelloSize);
        continue;
      }
      FrameHeader header;
      ASSERT_EQ(decode_header(head.data(), receive_key, header), Fault::kNone);
      frames.push_back(header);
      size_t size = kHeaderSize;
      if (header.type == FrameType::kOpen) {
        size += header.length + (trailer == TrailerKind::kNone ? 0 : kTrailerSize);
      }
      head = head.subspan(size);
      if (header.type == FrameType::kData) {
        ASSERT_TRUE(head.empty());
        ASSERT_EQ(header.length, piece.payload);
      }
    }
  }

  Bytes read_from;
};

}  // namespace virtproxy::test
