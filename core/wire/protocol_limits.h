// The limits that the protocol itself sets, whatever a session is configured for.
#pragma once

#include <cstddef>
#include <cstdint>

namespace virtproxy {

namespace protocol_limits {
inline constexpr uint32_t kMinFrame = 256;          // DATA payload any peer must accept, bytes
inline constexpr uint32_t kMaxFrame = 1u << 20;     // DATA payload no peer may ask for, bytes
inline constexpr uint32_t kMaxWindow = 1u << 30;    // credit outstanding on one stream, bytes
inline constexpr uint32_t kMinInitialWindow = 256;  // below this a session is not worth having
inline constexpr uint64_t kMaxOffset = 1ull << 62;  // bytes one stream may carry each way
inline constexpr uint32_t kMaxService = 31;         // characters in a service name
inline constexpr uint32_t kMaxMetadata = 128;       // bytes of client metadata in OPEN
inline constexpr uint32_t kMaxOpenPayload = 4 + kMaxService + kMaxMetadata;
}  // namespace protocol_limits

}  // namespace virtproxy
