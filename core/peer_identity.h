// Who opened a stream: the metadata of OPEN. The accepting end may log it and act on it; it is the
// word of the other daemon, no more.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace virtproxy {

inline constexpr size_t kMaxPeerIdentitySize = 19;

struct PeerIdentity {
  enum class Kind : uint8_t { kUnknown = 0, kUnix = 1, kIpv4 = 2, kIpv6 = 3, kVsock = 4 };

  Kind kind = Kind::kUnknown;
  uint32_t uid = 0;  // kUnix: credentials of the process that connected
  uint32_t gid = 0;
  uint32_t pid = 0;
  std::array<uint8_t, 16> address{};  // kIpv4 (the first 4) and kIpv6, as on the wire of IP
  uint32_t cid = 0;                   // kVsock
  uint32_t port = 0;                  // kIpv4, kIpv6, kVsock

  bool operator==(const PeerIdentity&) const = default;
};

// Writes at most kMaxPeerIdentitySize bytes, returns how many.
size_t encode_peer_identity(const PeerIdentity& identity, std::byte* out);

// Unknown kinds decode as kUnknown; nothing for a known kind of the wrong size.
std::optional<PeerIdentity> decode_peer_identity(std::span<const std::byte> in);

}  // namespace virtproxy
