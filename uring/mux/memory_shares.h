// How a channel divides its memory.
#pragma once

#include <cstdint>

namespace virtproxy {

// The shares of a channel's memory for bytes towards sockets and for bytes towards the channel. The
// rest covers what rounding and fragments cost.
constexpr uint64_t receive_share(uint64_t memory) { return memory / 8 * 5; }
constexpr uint64_t memory_of_receive_share(uint64_t share) { return (share + 4) / 5 * 8; }
constexpr uint64_t outbound_share(uint64_t memory) { return memory / 4; }

}  // namespace virtproxy
