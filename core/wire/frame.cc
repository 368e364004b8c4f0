#include "core/wire/frame.h"

#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/wire/little_endian.h"

namespace virtproxy {
namespace {

constexpr size_t kTypeAt = 0;
constexpr size_t kFlagsAt = 1;
constexpr size_t kReservedAt = 2;
constexpr size_t kStreamAt = 4;
constexpr size_t kLengthAt = 8;
constexpr size_t kCheckAt = 12;
constexpr size_t kArgumentAt = 16;
constexpr uint8_t kOpenedBySender = 1;

uint32_t header_check(const std::byte* header, DirectionKey key) {
  std::byte copy[kHeaderSize];
  std::memcpy(copy, header, kHeaderSize);
  store_le<uint32_t>(copy + kCheckAt, 0);
  return static_cast<uint32_t>(XXH3_64bits_withSeed(copy, kHeaderSize, key.value));
}

}  // namespace

DirectionKey direction_key(uint64_t sender, uint64_t receiver) {
  std::byte both[16];
  store_le(both, sender);
  store_le(both + 8, receiver);
  return {XXH3_64bits(both, sizeof both)};
}

void encode_header(const FrameHeader& header, DirectionKey key, std::byte* out) {
  store_le(out + kTypeAt, static_cast<uint8_t>(header.type));
  store_le(out + kFlagsAt, header.opened_by_sender ? kOpenedBySender : uint8_t{0});
  store_le<uint16_t>(out + kReservedAt, 0);
  store_le(out + kStreamAt, header.stream);
  store_le(out + kLengthAt, header.length);
  store_le<uint32_t>(out + kCheckAt, 0);
  store_le(out + kArgumentAt, header.argument);
  store_le(out + kCheckAt, header_check(out, key));
}

Fault decode_header(const std::byte* in, DirectionKey key, FrameHeader& header) {
  if (load_le<uint32_t>(in + kCheckAt) != header_check(in, key)) return Fault::kBadHeader;
  const auto type = load_le<uint8_t>(in + kTypeAt);
  const auto flags = load_le<uint8_t>(in + kFlagsAt);
  if (load_le<uint16_t>(in + kReservedAt) != 0 || (flags & ~kOpenedBySender) != 0) {
    return Fault::kBadHeader;
  }
  if (type < static_cast<uint8_t>(FrameType::kOpen) ||
      type > static_cast<uint8_t>(FrameType::kResetAt)) {
    return Fault::kUnknownFrame;
  }
  header.type = static_cast<FrameType>(type);
  header.opened_by_sender = (flags & kOpenedBySender) != 0;
  header.stream = load_le<uint32_t>(in + kStreamAt);
  header.length = load_le<uint32_t>(in + kLengthAt);
  header.argument = load_le<uint64_t>(in + kArgumentAt);
  return Fault::kNone;
}

uint64_t frame_trailer(TrailerKind kind, std::span<const std::byte> frame, DirectionKey key) {
  const size_t covered = kind == TrailerKind::kChecksum ? frame.size() : kHeaderSize;
  return XXH3_64bits_withSeed(frame.data(), covered, ~key.value);
}

}  // namespace virtproxy
