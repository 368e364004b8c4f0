#include "core/wire/v1_packet.h"

#include <algorithm>
#include <cstring>

#include "core/wire/hello.h"
#include "core/wire/little_endian.h"

namespace virtproxy {
namespace {

constexpr uint32_t kMagic = 0x1F374059;
constexpr size_t kMagicAt = 1040;
constexpr size_t kServiceAt = 12;
constexpr size_t kServiceSize = 32;
static_assert(kMagicAt + kV1MagicSize == kV1PacketSize);
static_assert(kHelloSize == kV1PacketSize);

bool all_zero(const std::byte* begin, const std::byte* end) {
  return std::all_of(begin, end, [](std::byte b) { return b == std::byte{0}; });
}

bool is_magic(const std::byte* at) { return load_le<uint32_t>(at) == kMagic; }

bool is_sane(const std::byte* packet) {
  const V1Head head = decode_v1_head(packet);
  if (head.is_data()) return head.bytes() >= 1 && head.bytes() <= int32_t{kV1MostData};
  if (!head.is_control()) return false;
  return head.message() >= 1 && head.message() <= static_cast<uint32_t>(V1Message::kClose);
}

// As many zeros in their place are no accident.
constexpr size_t kProvingZeros = 64;

// A whole packet that is nothing else by accident. One of data has to be short for that.
bool proves_itself(const std::byte* packet) {
  const V1Head head = decode_v1_head(packet);
  if (head.is_data() && is_sane(packet)) {
    const auto unused = kV1DataHead + static_cast<size_t>(head.bytes());
    return kMagicAt - unused >= kProvingZeros && all_zero(packet + unused, packet + kMagicAt);
  }
  if (!head.is_control()) return false;
  if (head.message() == static_cast<uint32_t>(V1Message::kInit)) {
    const auto service = v1_service(packet);
    return service && all_zero(packet + kServiceAt + service->size(), packet + kMagicAt);
  }
  if (is_sane(packet)) return all_zero(packet + kV1DataHead, packet + kMagicAt);
  return decode_hello(packet).has_value();
}

}  // namespace

V1Head decode_v1_head(const std::byte* packet) {
  V1Head head;
  head.type = load_le<uint32_t>(packet);
  for (size_t i = 0; i < head.word.size(); ++i) {
    head.word[i] = load_le<uint32_t>(packet + 4 + 4 * i);
  }
  return head;
}

bool has_v1_magic(const std::byte* packet) { return is_magic(packet + kMagicAt); }

std::optional<std::string_view> v1_service(const std::byte* packet) {
  const char* name = reinterpret_cast<const char*>(packet) + kServiceAt;
  const size_t size = strnlen(name, kServiceSize);
  if (size == 0 || size == kServiceSize) return std::nullopt;
  return std::string_view(name, size);
}

void encode_v1_init(int32_t client, std::string_view service, std::byte* packet) {
  encode_v1_control(V1Message::kInit, client, 0, packet);
  std::memcpy(packet + kServiceAt, service.data(), std::min(service.size(), kServiceSize - 1));
}

void encode_v1_control(V1Message message, int32_t client, int32_t server, std::byte* packet) {
  std::memset(packet, 0, kV1PacketSize);
  store_le(packet, static_cast<uint32_t>(V1Type::kControl));
  store_le(packet + 4, static_cast<uint32_t>(message));
  store_le(packet + 8, static_cast<uint32_t>(client));
  store_le(packet + 12, static_cast<uint32_t>(server));
  store_le(packet + kMagicAt, kMagic);
}

void encode_v1_data_head(V1Type type, int32_t client, int32_t server, uint32_t bytes,
                         std::byte* head) {
  store_le(head, static_cast<uint32_t>(type));
  store_le(head + 4, static_cast<uint32_t>(client));
  store_le(head + 8, static_cast<uint32_t>(server));
  store_le(head + 12, bytes);
}

void encode_v1_tail(std::span<std::byte> tail) {
  std::memset(tail.data(), 0, tail.size() - kV1MagicSize);
  store_le(tail.data() + tail.size() - kV1MagicSize, kMagic);
}

V1Search find_v1_packet(std::span<const std::byte> bytes) {
  std::byte needle[kV1MagicSize];
  store_le(needle, kMagic);
  const std::string_view haystack(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::string_view magic(reinterpret_cast<const char*>(needle), sizeof needle);
  // A packet may begin in what is too short to be one, right after a magic.
  constexpr size_t kUnseen = kV1PacketSize - 1 + kV1MagicSize;
  size_t keep_from = bytes.size() - std::min(bytes.size(), kUnseen);
  for (size_t from = kMagicAt;; ++from) {
    from = haystack.find(magic, from);
    if (from == std::string_view::npos) return {false, keep_from};
    const size_t at = from - kMagicAt;
    const std::byte* packet = bytes.data() + at;
    if (proves_itself(packet)) return {true, at};
    if (!is_sane(packet)) continue;
    if (at >= kV1MagicSize && is_magic(packet - kV1MagicSize)) return {true, at};
    if (bytes.size() - at < 2 * kV1PacketSize) {
      keep_from = std::min(keep_from, at - std::min(at, kV1MagicSize));
    } else if (is_sane(packet + kV1PacketSize) && has_v1_magic(packet + kV1PacketSize)) {
      return {true, at};
    }
  }
}

}  // namespace virtproxy
