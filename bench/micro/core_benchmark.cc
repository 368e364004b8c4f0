// What the protocol itself costs, without a kernel: codec, scheduler, and two sessions back to back.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/frame.h"
#include "core/session_v2.h"

namespace virtproxy {
namespace {

void BM_EncodeHeader(benchmark::State& state) {
  const DirectionKey key = direction_key(1, 2);
  std::byte out[kHeaderSize];
  FrameHeader header{FrameType::kData, true, 7, 65536, 0};
  for (auto _ : state) {
    header.argument += 65536;
    encode_header(header, key, out);
    benchmark::DoNotOptimize(out);
  }
}
BENCHMARK(BM_EncodeHeader);

void BM_DecodeHeader(benchmark::State& state) {
  const DirectionKey key = direction_key(1, 2);
  std::byte bytes[kHeaderSize];
  encode_header({FrameType::kData, true, 7, 65536, 1234}, key, bytes);
  FrameHeader header;
  for (auto _ : state) {
    benchmark::DoNotOptimize(decode_header(bytes, key, header));
    benchmark::DoNotOptimize(header);
  }
}
BENCHMARK(BM_DecodeHeader);

// Two sessions whose batches are handed over in memory. Payload is not written: the core does not
// look at it.
class Wire {
 public:
  Wire() : near_(config(1)), far_(config(2)) {
    near_.link_up(now_);
    far_.link_up(now_);
    while (!near_.up() || !far_.up() || near_.wants_to_write(now_) || far_.wants_to_write(now_)) {
      exchange();
    }
  }

  StreamKey open() {
    const StreamKey stream = *near_.open("echo", Priority::kNormal, {});
    exchange();
    return stream;
  }

  Session& near() { return near_; }

  // One batch each way; whatever arrives is taken at once.
  void exchange() {
    carry(near_, far_);
    carry(far_, near_);
    now_ += std::chrono::microseconds(10);
  }

 private:
  static SessionConfig config(uint64_t secret) {
    SessionConfig config;
    config.limits = derive_limits(64u << 20, 1024, 1u << 20, 65536);
    config.secret = secret;
    return config;
  }

  void carry(Session& from, Session& to) {
    if (!from.wants_to_write(now_)) return;
    const Batch& batch = from.plan(256 * 1024, now_, events_);
    size_t size = 0;
    for (const Piece& piece : batch.pieces) {
      const auto head = batch.head(piece);
      if (bytes_.size() < size + head.size() + piece.payload) {
        bytes_.resize(size + head.size() + piece.payload);
      }
      std::memcpy(bytes_.data() + size, head.data(), head.size());
      size += head.size() + piece.payload;
    }
    events_.clear();
    to.input({bytes_.data(), size}, now_, events_);
    for (const Event& event : events_) {
      if (event.kind == Event::Kind::kData) to.taken(event.stream, event.bytes.size());
    }
    events_.clear();
  }

  Instant now_{1};
  SessionV2 near_;
  SessionV2 far_;
  Events events_;
  std::vector<std::byte> bytes_;
};

// Argument 0: bytes a frame. Argument 1: streams that take turns.
void BM_SessionFrames(benchmark::State& state) {
  Wire wire;
  const auto size = static_cast<uint64_t>(state.range(0));
  std::vector<StreamKey> streams;
  for (int64_t i = 0; i < state.range(1); ++i) streams.push_back(wire.open());
  uint64_t frames = 0;
  uint64_t bytes = 0;
  for (auto _ : state) {
    for (const StreamKey stream : streams) {
      const uint64_t piece = std::min(size, wire.near().credit(stream));
      if (piece == 0) continue;
      wire.near().queue(stream, piece);
      bytes += piece;
      ++frames;
    }
    wire.exchange();
  }
  state.SetItemsProcessed(static_cast<int64_t>(frames));
  state.SetBytesProcessed(static_cast<int64_t>(bytes));
}
BENCHMARK(BM_SessionFrames)
    ->ArgNames({"bytes", "streams"})
    ->Args({64, 1})
    ->Args({64, 64})
    ->Args({64, 1000})
    ->Args({4096, 16})
    ->Args({65536, 1});

}  // namespace
}  // namespace virtproxy
