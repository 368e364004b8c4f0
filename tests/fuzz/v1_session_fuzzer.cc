// A peer of version 1 that says anything: packets with arbitrary fields, raw bytes, greetings, and
// whatever the driver may do in between. Oracles are the assertions of the core, the bounds on what
// is held and kept, and the sanitizers.

#include <cstdint>
#include <vector>

#include "core/assert.h"
#include "core/protocol_selector.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/streams.h"

using namespace virtproxy;
using namespace virtproxy::fuzz;

namespace {

constexpr uint64_t kBudget = 1u << 20;
constexpr size_t kRead = 4096;

class World {
 public:
  explicit World(ProtocolMode mode) : selector_(config(), mode) {
    selector_.transport_up(now_, std::chrono::milliseconds(250), 0, events_);
    react();
  }

  void step(Input& in) {
    now_ += Duration(100'000 * in.number(2));
    const bool again = selector_.tick(now_, events_);
    react();
    if (again) use();
    switch (in.number(1) % 6) {
      case 0:
      case 1:
        return send_packet(in);
      case 2:
        return send_raw(in);
      case 3:
        return drive(in);
      case 4:
        return send_hello(in);
      default:
        listen(1 + in.number(2));
    }
  }

 private:
  static SessionConfig config() {
    SessionConfig config;
    config.limits = derive_limits(kBudget, 16, 65536, 4096);
    config.v1.hold = 16 * 1024;
    config.number_seed = 1;
    return config;
  }

  // Small numbers, or one that this end gave out.
  int32_t some_number(Input& in) {
    const uint64_t what = in.number(1);
    if (what < 64 || numbers_.empty()) return static_cast<int32_t>(what) - 2;
    return numbers_[what % numbers_.size()] + static_cast<int32_t>(in.number(1) % 2);
  }

  void send_packet(Input& in) {
    std::vector<std::byte> bytes(kV1PacketSize);
    const uint64_t what = in.number(1) % 6;
    const int32_t client = some_number(in);
    const int32_t server = some_number(in);
    if (what == 0) encode_v1_init(client, "service", bytes.data());
    if (what == 1) encode_v1_control(V1Message::kAck, client, server, bytes.data());
    if (what == 2) encode_v1_control(V1Message::kClose, client, server, bytes.data());
    if (what > 2) {
      const auto size = static_cast<uint32_t>(in.number(2) % 1100);
      encode_v1_data_head(what == 3 ? V1Type::kClient : V1Type::kServer, client, server, size,
                          bytes.data());
      encode_v1_tail(std::span(bytes).last(4));
    }
    if (in.number(1) == 7) bytes[in.number(2) % bytes.size()] ^= std::byte{0x40};
    give(bytes);
  }

  void send_raw(Input& in) {
    std::vector<std::byte> bytes(in.number(1));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(in.number(1));
    give(bytes);
  }

  void send_hello(Input& in) {
    Hello hello;
    hello.epoch = 1 + in.number(1);
    hello.max_streams = 16;
    hello.initial_window = 4096;
    hello.max_frame = 4096;
    std::vector<std::byte> bytes(kHelloSize);
    encode_hello(hello, bytes.data());
    give(bytes);
  }

  // Learns the numbers that this end gives out.
  void listen(uint64_t bytes) {
    const Batch& batch = selector_.plan(bytes, now_, events_);
    for (const PlannedFrame& piece : batch.frames) {
      const auto head = batch.head(piece);
      for (size_t at = 0; at + kV1DataHead <= head.size(); at += kV1PacketSize) {
        const V1Head packet = decode_v1_head(head.data() + at);
        if (!packet.is_control()) continue;
        const bool init = packet.message() == static_cast<uint32_t>(V1Message::kInit);
        numbers_.push_back(init ? packet.control_client() : packet.control_server());
      }
    }
    react();
  }

  void drive(Input& in) {
    Session& session = selector_.session();
    const uint64_t what = in.number(1) % 7;
    if (what == 0) {
      if (const auto key = session.open("service", Priority::kNormal, {})) {
        streams_.add(*key);
      }
      return;
    }
    if (streams_.empty()) return;
    const auto at = streams_.any(in);
    Held& held = at->second;
    const StreamKey stream = held.key;
    if (what == 1 && !held.finished) {
      const uint64_t bytes = std::min<uint64_t>(in.number(2), session.request_credit(stream));
      if (bytes > 0) session.queue(stream, bytes);
    } else if (what == 2 && !held.finished) {
      held.finished = true;
      session.end(stream);
    } else if (what == 3) {
      streams_.erase(at);
      session.reset(stream, Fault::kAborted, events_);
    } else if (what == 4 && held.bytes > 0) {
      const uint64_t bytes = 1 + in.number(2) % held.bytes;
      held.bytes -= bytes;
      session.consumed(stream, bytes);
    } else if (what == 5 && held.ended && held.bytes == 0) {
      held.ended = false;
      session.delivered(stream, events_);
    } else if (what == 6) {
      session.accepted(stream);
    }
    react();
  }

  void give(std::span<const std::byte> bytes) {
    pending_.insert(pending_.end(), bytes.begin(), bytes.end());
    use();
  }
  void use() {
    if (!selector_.wants_input(now_)) return;
    const size_t used = feed(selector_, pending_, now_, events_, [this] {
      react();
      return true;
    });
    VP_ASSERT(used <= pending_.size());
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(used));
  }

  void react() {
    streams_.hear(events_);
    const uint64_t held = streams_.held();
    VP_ASSERT(held <= kBudget + pending_.size() + kRead);
    VP_ASSERT(streams_.size() <= 16);
  }

  Instant now_{1};
  ProtocolSelector selector_;
  Events events_;
  std::vector<int32_t> numbers_;
  std::vector<std::byte> pending_;
  Streams streams_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  World world(in.number(1) % 2 == 0 ? ProtocolMode::kV1 : ProtocolMode::kAuto);
  while (!in.empty()) world.step(in);
  return 0;
}
