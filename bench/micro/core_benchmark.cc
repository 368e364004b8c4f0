// What the protocol itself costs, without a kernel: codec, credit, scheduler, and two sessions back
// to back.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <vector>

#include "bench/micro/session_pair.h"
#include "core/flow/credit_pool.h"
#include "core/flow/inflight_limiter.h"
#include "core/flow/scheduler.h"
#include "core/wire/frame.h"
#include "core/wire/hello.h"

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

// Argument: bytes of payload.
void BM_Trailer(benchmark::State& state, TrailerKind kind) {
  const std::vector<std::byte> frame(kHeaderSize + static_cast<size_t>(state.range(0)));
  const DirectionKey key = direction_key(1, 2);
  for (auto _ : state) benchmark::DoNotOptimize(frame_trailer(kind, frame, key));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK_CAPTURE(BM_Trailer, commit, TrailerKind::kCommit)->Arg(4096);
BENCHMARK_CAPTURE(BM_Trailer, checksum, TrailerKind::kChecksum)->Arg(64)->Arg(4096)->Arg(65536);

// A loan that grows and shrinks with a stream's traffic.
void BM_CreditPool(benchmark::State& state) {
  CreditPool pool(32u << 20);
  uint64_t borrowed = 0;
  for (auto _ : state) {
    const uint64_t wanted = std::min<uint64_t>(borrowed + 65536, pool.share(borrowed));
    pool.change_borrowed(borrowed, wanted);
    borrowed = wanted > 1u << 20 ? 0 : wanted;
    pool.change_borrowed(wanted, borrowed);
    benchmark::DoNotOptimize(borrowed);
  }
}
BENCHMARK(BM_CreditPool);

// What bounds the bytes under way: one batch sent, one report of what arrived.
void BM_InflightLimiter(benchmark::State& state) {
  InflightLimiter limiter(1u << 20, 1u << 16);
  Instant now{1};
  uint64_t sent = 0;
  for (auto _ : state) {
    now += std::chrono::microseconds(10);
    limiter.sent(65536, now);
    sent += 65536;
    benchmark::DoNotOptimize(limiter.acknowledge(sent, now));
    benchmark::DoNotOptimize(limiter.available());
  }
}
BENCHMARK(BM_InflightLimiter);

// Every frame uses up a window's half, so that each is answered by CREDIT.
void BM_SessionCredit(benchmark::State& state) {
  constexpr uint64_t kPiece = 16384;
  SessionPair pair(0, 2 * kPiece);
  const StreamKey stream = pair.open();
  int64_t frames = 0;
  for (auto _ : state) {
    if (pair.near().request_credit(stream) >= kPiece) {
      pair.near().queue(stream, kPiece);
      ++frames;
    }
    pair.exchange();
  }
  state.SetItemsProcessed(frames);
}
BENCHMARK(BM_SessionCredit);

// Argument: streams, all of them always ready.
void BM_SchedulerTurn(benchmark::State& state) {
  Slab<Stream> streams;
  Scheduler<Stream> scheduler(65536);
  for (int64_t i = 0; i < state.range(0); ++i) {
    scheduler.add(streams, streams.insert(Stream{}).slot);
  }
  int64_t turns = 0;
  for (auto _ : state) {
    scheduler.begin(256 * 1024);
    for (Scheduler<Stream>::Turn turn = scheduler.next(streams); turn.slot != IndexLink::kNone;
         turn = scheduler.next(streams)) {
      scheduler.sent(streams, turn.slot, std::min(turn.bytes, 4096u), kHeaderSize, true);
      ++turns;
    }
  }
  state.SetItemsProcessed(turns);
}
BENCHMARK(BM_SchedulerTurn)->Arg(1)->Arg(64)->Arg(10000);

// Arguments: bytes a frame; streams that take turns.
void BM_SessionFrames(benchmark::State& state, uint64_t features) {
  SessionPair pair(features);
  const auto size = static_cast<uint64_t>(state.range(0));
  std::vector<StreamKey> streams;
  for (int64_t i = 0; i < state.range(1); ++i) streams.push_back(pair.open());
  uint64_t frames = 0;
  uint64_t bytes = 0;
  for (auto _ : state) {
    for (const StreamKey stream : streams) {
      const uint64_t piece = std::min(size, pair.near().request_credit(stream));
      if (piece == 0) continue;
      pair.near().queue(stream, piece);
      bytes += piece;
      ++frames;
    }
    pair.exchange();
  }
  state.SetItemsProcessed(static_cast<int64_t>(frames));
  state.SetBytesProcessed(static_cast<int64_t>(bytes));
}
BENCHMARK_CAPTURE(BM_SessionFrames, plain, 0)
    ->ArgNames({"bytes", "streams"})
    ->Args({64, 1})
    ->Args({64, 64})
    ->Args({64, 1000})
    ->Args({4096, 16})
    ->Args({65536, 1});
BENCHMARK_CAPTURE(BM_SessionFrames, commit, feature::kCommitTrailer)
    ->ArgNames({"bytes", "streams"})
    ->Args({64, 64})
    ->Args({65536, 1});
BENCHMARK_CAPTURE(BM_SessionFrames, checksum, feature::kChecksumTrailer)
    ->ArgNames({"bytes", "streams"})
    ->Args({64, 64})
    ->Args({65536, 1});

// A stream's whole life: OPEN, 64 bytes, both ends, both DONEs.
void BM_SessionShortStream(benchmark::State& state) {
  SessionPair pair;
  for (auto _ : state) {
    const StreamKey stream = pair.open();
    pair.near().queue(stream, 64);
    pair.near().end(stream);
    do {
      pair.exchange();
    } while (pair.near().stats().streams > 0);
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(BM_SessionShortStream);

}  // namespace
}  // namespace virtproxy
