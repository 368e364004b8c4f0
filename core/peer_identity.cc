#include "core/peer_identity.h"

#include <cstring>

#include "core/wire/little_endian.h"

namespace virtproxy {
namespace {

constexpr size_t kUnixSize = 1 + 3 * 4;
constexpr size_t kIpv4Size = 1 + 4 + 2;
constexpr size_t kIpv6Size = 1 + 16 + 2;
constexpr size_t kVsockSize = 1 + 2 * 4;
static_assert(kIpv6Size == kMaxPeerIdentitySize);

}  // namespace

size_t encode_peer_identity(const PeerIdentity& identity, std::byte* out) {
  if (identity.kind == PeerIdentity::Kind::kUnknown) return 0;
  store_le(out, static_cast<uint8_t>(identity.kind));
  std::byte* at = out + 1;
  switch (identity.kind) {
    case PeerIdentity::Kind::kUnknown:
      return 0;
    case PeerIdentity::Kind::kUnix:
      store_le(at, identity.uid);
      store_le(at + 4, identity.gid);
      store_le(at + 8, identity.pid);
      return kUnixSize;
    case PeerIdentity::Kind::kIpv4:
      std::memcpy(at, identity.address.data(), 4);
      store_le(at + 4, static_cast<uint16_t>(identity.port));
      return kIpv4Size;
    case PeerIdentity::Kind::kIpv6:
      std::memcpy(at, identity.address.data(), 16);
      store_le(at + 16, static_cast<uint16_t>(identity.port));
      return kIpv6Size;
    case PeerIdentity::Kind::kVsock:
      store_le(at, identity.cid);
      store_le(at + 4, identity.port);
      return kVsockSize;
  }
  return 0;
}

std::optional<PeerIdentity> decode_peer_identity(std::span<const std::byte> in) {
  PeerIdentity identity;
  if (in.empty()) return identity;
  const std::byte* at = in.data() + 1;
  switch (static_cast<PeerIdentity::Kind>(in[0])) {
    case PeerIdentity::Kind::kUnix:
      if (in.size() != kUnixSize) return std::nullopt;
      identity.kind = PeerIdentity::Kind::kUnix;
      identity.uid = load_le<uint32_t>(at);
      identity.gid = load_le<uint32_t>(at + 4);
      identity.pid = load_le<uint32_t>(at + 8);
      break;
    case PeerIdentity::Kind::kIpv4:
      if (in.size() != kIpv4Size) return std::nullopt;
      identity.kind = PeerIdentity::Kind::kIpv4;
      std::memcpy(identity.address.data(), at, 4);
      identity.port = load_le<uint16_t>(at + 4);
      break;
    case PeerIdentity::Kind::kIpv6:
      if (in.size() != kIpv6Size) return std::nullopt;
      identity.kind = PeerIdentity::Kind::kIpv6;
      std::memcpy(identity.address.data(), at, 16);
      identity.port = load_le<uint16_t>(at + 16);
      break;
    case PeerIdentity::Kind::kVsock:
      if (in.size() != kVsockSize) return std::nullopt;
      identity.kind = PeerIdentity::Kind::kVsock;
      identity.cid = load_le<uint32_t>(at);
      identity.port = load_le<uint32_t>(at + 4);
      break;
    case PeerIdentity::Kind::kUnknown:
    default:
      break;
  }
  return identity;
}

}  // namespace virtproxy
