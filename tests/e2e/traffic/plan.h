// What happens on one stream, drawn from the seed. The client announces it in the first bytes of
// the stream, so that client and service can be different processes; everything not announced is
// drawn from the announced seed and stream number, alike on both sides.

#ifndef VIRTPROXY_TESTS_E2E_TRAFFIC_PLAN_H_
#define VIRTPROXY_TESTS_E2E_TRAFFIC_PLAN_H_

#include <cstdint>
#include <string_view>

#include "content.h"

namespace virtproxy::traffic {

enum class Side : uint8_t { kClient, kService };
enum class Order : uint8_t { kTogether, kClientFirst, kServiceFirst };
enum class Style : uint8_t { kMixed, kTiny, kFlat };
enum class Killer : uint8_t { kNobody, kClient, kService };
enum class Family : uint8_t { kTcp, kUnix };

struct Announcement {
  static constexpr uint64_t kMagic = 0x31434646'41525456U;

  uint64_t magic = kMagic;
  uint64_t seed = 0;
  uint64_t up = 0;    // Bytes from client to service.
  uint64_t down = 0;  // Bytes from service to client.
  uint32_t stream = 0;
  Order order = Order::kTogether;
  Style style = Style::kMixed;
  Killer killer = Killer::kNobody;
  Family family = Family::kTcp;  // The client's own socket.

  bool Valid() const;
  bool KilledBy(Side side) const {
    return killer == (side == Side::kClient ? Killer::kClient : Killer::kService);
  }
  uint64_t SentBy(Side side) const { return side == Side::kClient ? up : down; }
  bool First(Side side) const {
    return order == (side == Side::kClient ? Order::kClientFirst : Order::kServiceFirst);
  }
};
static_assert(sizeof(Announcement) == 40);

// The service's first bytes: proof that the answer belongs to this stream.
struct Greeting {
  static constexpr uint64_t kMagic = 0x32434646'41525456U;

  uint64_t magic = kMagic;
  uint32_t stream = 0;
  uint32_t family = 0;
};
static_assert(sizeof(Greeting) == 16);

constexpr Side Other(Side side) { return side == Side::kClient ? Side::kService : Side::kClient; }
constexpr std::string_view Name(Side side) { return side == Side::kClient ? "client" : "service"; }

// A seed for one use of one stream by one side.
uint64_t Derive(const Announcement& plan, Side side, std::string_view use);

// Where the killing side closes abortively: after having sent, or received, exactly `offset` bytes.
// It never sends its last byte, so that the other side cannot mistake the stream for a finished
// one.
struct KillPoint {
  bool by_received = false;
  uint64_t offset = 0;
};
KillPoint DrawKillPoint(const Announcement& plan, Side killer);

// Sizes of writes and pauses between them.
class Rhythm {
 public:
  Rhythm(Style style, uint64_t seed) : style_(style), random_(seed) {}

  uint64_t NextSize();
  // Milliseconds to wait before the next step, mostly 0; the sum over a stream is bounded.
  uint64_t NextPause();

 private:
  Style style_;
  Random random_;
  uint64_t pause_left_ = 200;
};

constexpr uint64_t kLargestWrite = 128 * 1024;

}  // namespace virtproxy::traffic

#endif  // VIRTPROXY_TESTS_E2E_TRAFFIC_PLAN_H_
