// What client and sink say to each other.
//
// A connection opens with a Request. Except for kExchangeOnce the sink answers with a Greeting,
// which proves the connection end to end before any clock is started. Then, by role:
//
//   kStreamUp      payload to the sink; after the client's end of stream, a Trailer
//   kStreamDown    a Go from the client, then payload to the client until `bytes` or the client's
//                  end of stream; a Trailer
//   kStreamBoth    a Go, then both at once; a Trailer
//   kExchange      every `size` bytes are answered by `size` bytes
//   kExchangeOnce  the same once; then the sink closes
//
// A Trailer is followed by the sink's end of stream. Both sides compare it with what they counted,
// so that no byte can go missing unnoticed. All numbers are little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace virtproxy::bench {

enum class Role : uint8_t {
  kStreamUp = 1,
  kStreamDown = 2,
  kStreamBoth = 3,
  kExchange = 4,
  kExchangeOnce = 5,
};

constexpr bool sends_up(Role role) { return role == Role::kStreamUp || role == Role::kStreamBoth; }
constexpr bool sends_down(Role role) {
  return role == Role::kStreamDown || role == Role::kStreamBoth;
}
constexpr bool is_stream(Role role) { return role <= Role::kStreamBoth; }

inline constexpr uint8_t kFlagVerify = 1;
// The client cannot half-close: the Trailer follows once `bytes` have been received.
inline constexpr uint8_t kFlagNoHalfClose = 2;

struct Request {
  static constexpr uint32_t kMagic = 0x31425056;  // "VPB1"

  uint32_t magic = kMagic;
  Role role = Role::kStreamUp;
  uint8_t flags = 0;
  uint16_t reserved = 0;
  uint64_t size = 0;   // of a message
  uint64_t bytes = 0;  // per direction of a stream; 0: until the client's end of stream
  uint64_t seed = 0;
};
static_assert(sizeof(Request) == 32);

inline constexpr uint64_t kGreetingWord = 0x79646165722d7076;  // "vp-ready"

inline constexpr uint8_t kGo = 'g';

struct Trailer {
  // Set in `received` when the sink saw a byte that was not the pattern's.
  static constexpr uint64_t kCorrupted = uint64_t{1} << 63;

  uint64_t received = 0;
  uint64_t sent = 0;
};
static_assert(sizeof(Trailer) == 16);

// A stream that carries nothing down is answered by the count of received bytes alone.
constexpr size_t trailer_size(Role role) { return role == Role::kStreamUp ? 8 : 16; }

// The two directions of a connection carry different patterns.
constexpr uint64_t up_seed(uint64_t seed) { return seed; }
constexpr uint64_t down_seed(uint64_t seed) { return ~seed; }

}  // namespace virtproxy::bench
