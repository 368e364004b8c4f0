#include "core/peer_identity.h"

#include <cstring>

#include "core/wire/little_endian.h"

namespace virtproxy {
namespace {

constexpr size_t kUnixSize = 1 + 3 * 4;
constexpr size_t kIpv4Size = 1 + 4 + 2;
constexpr size_t kIpv6Size = 1 + 16 + 2;
constexpr size_t kVsockSize = 1 + 2 * 4;
static_assert(kIpv6Size == kMaxOriginSize);

}  // namespace

size_t encode_origin(const Origin& origin, std::byte* out) {
  if (origin.kind == Origin::Kind::kUnknown) return 0;
  store_le(out, static_cast<uint8_t>(origin.kind));
  std::byte* at = out + 1;
  switch (origin.kind) {
    case Origin::Kind::kUnknown:
      return 0;
    case Origin::Kind::kUnix:
      store_le(at, origin.uid);
      store_le(at + 4, origin.gid);
      store_le(at + 8, origin.pid);
      return kUnixSize;
    case Origin::Kind::kIpv4:
      std::memcpy(at, origin.address.data(), 4);
      store_le(at + 4, static_cast<uint16_t>(origin.port));
      return kIpv4Size;
    case Origin::Kind::kIpv6:
      std::memcpy(at, origin.address.data(), 16);
      store_le(at + 16, static_cast<uint16_t>(origin.port));
      return kIpv6Size;
    case Origin::Kind::kVsock:
      store_le(at, origin.cid);
      store_le(at + 4, origin.port);
      return kVsockSize;
  }
  return 0;
}

std::optional<Origin> decode_origin(std::span<const std::byte> in) {
  Origin origin;
  if (in.empty()) return origin;
  const std::byte* at = in.data() + 1;
  switch (static_cast<Origin::Kind>(in[0])) {
    case Origin::Kind::kUnix:
      if (in.size() != kUnixSize) return std::nullopt;
      origin.kind = Origin::Kind::kUnix;
      origin.uid = load_le<uint32_t>(at);
      origin.gid = load_le<uint32_t>(at + 4);
      origin.pid = load_le<uint32_t>(at + 8);
      break;
    case Origin::Kind::kIpv4:
      if (in.size() != kIpv4Size) return std::nullopt;
      origin.kind = Origin::Kind::kIpv4;
      std::memcpy(origin.address.data(), at, 4);
      origin.port = load_le<uint16_t>(at + 4);
      break;
    case Origin::Kind::kIpv6:
      if (in.size() != kIpv6Size) return std::nullopt;
      origin.kind = Origin::Kind::kIpv6;
      std::memcpy(origin.address.data(), at, 16);
      origin.port = load_le<uint16_t>(at + 16);
      break;
    case Origin::Kind::kVsock:
      if (in.size() != kVsockSize) return std::nullopt;
      origin.kind = Origin::Kind::kVsock;
      origin.cid = load_le<uint32_t>(at);
      origin.port = load_le<uint32_t>(at + 4);
      break;
    case Origin::Kind::kUnknown:
    default:
      break;
  }
  return origin;
}

}  // namespace virtproxy
