// Frames of protocol version 2: a fixed 24-byte header, then `length` bytes of payload, then, where
// the session uses trailers, 8 bytes that prove the payload belongs to the header.
//
//   0        1        2        4          8          12         16               24
//   +--------+--------+--------+----------+----------+----------+----------------+
//   | type   | flags  | 0      | stream   | length   | check    | argument       |
//   +--------+--------+--------+----------+----------+----------+----------------+
//
// The check is keyed by both ends' epochs: a header of an earlier session, or of anybody who has
// not seen both greetings, fails it. PROTOCOL.md is the specification; this is its codec. Checks
// are XXH3 (github.com/Cyan4973/xxHash, Debian libxxhash-dev).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/fault.h"

namespace virtproxy {

inline constexpr size_t kHeaderSize = 24;
inline constexpr size_t kTrailerSize = 8;

// The types start above the packet types of the old protocol (1 to 3), so that the first byte tells
// a frame from an old-format packet.
enum class FrameType : uint8_t {
  kOpen = 0x10,    // argument: credit for the acceptor's data; payload: priority, service, metadata
  kData = 0x11,    // argument: offset of the first byte; payload: bytes
  kEnd = 0x12,     // argument: final offset
  kDone = 0x13,    // argument: final offset, all of it taken by the application's socket
  kReset = 0x14,   // argument: code
  kCredit = 0x15,  // argument: the new limit, an absolute offset
  kPing = 0x16,    // argument: frames sent before this one in the session
  kPong = 0x17,    // argument: the argument of the ping
  kGoingAway = 0x18,  // no new streams, please
  kAck = 0x19,        // argument: bytes of the session read so far
  kResetAt = 0x1a     // argument: bytes sent in all, to be delivered before the reset
};

struct FrameHeader {
  FrameType type = FrameType::kPing;
  bool opened_by_sender = false;  // flag bit 0: whose number space `stream` is from
  uint32_t stream = 0;  // slot in bits 0–19, generation in bits 20–31; 0 for the session
  uint32_t length = 0;  // payload bytes
  uint64_t argument = 0;

  bool operator==(const FrameHeader&) const = default;
};

// The key under which one direction's checks are computed.
struct DirectionKey {
  uint64_t value = 0;
};

// `sender` and `receiver` are the epochs that the two ends announced in their greetings.
DirectionKey direction_key(uint64_t sender, uint64_t receiver);

void encode_header(const FrameHeader& header, DirectionKey key, std::byte* out);

// Decodes kHeaderSize bytes. Returns kNone, or the session fault: kBadHeader (check, reserved bits)
// or kUnknownFrame. Length limits are the session's to judge.
Fault decode_header(const std::byte* in, DirectionKey key, FrameHeader& header);

enum class TrailerKind : uint8_t {
  kNone,
  kCommit,    // depends on the header alone: the sender lived to the end of the frame
  kChecksum,  // depends on header and payload: no byte of the frame was changed
};

// The trailer of a frame whose header and payload lie contiguously in `frame`.
uint64_t frame_trailer(TrailerKind kind, std::span<const std::byte> frame, DirectionKey key);

inline constexpr uint32_t kSlotBits = 20;
inline constexpr uint32_t kMaxSlots = 1u << kSlotBits;
inline constexpr uint32_t kGenerations = 1u << (32 - kSlotBits);

constexpr uint32_t stream_number(uint32_t slot, uint32_t generation) {
  return slot | (generation % kGenerations) << kSlotBits;
}
constexpr uint32_t slot_of(uint32_t number) { return number & (kMaxSlots - 1); }
constexpr uint32_t generation_of(uint32_t number) { return number >> kSlotBits; }

}  // namespace virtproxy
