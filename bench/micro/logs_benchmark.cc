// Log shipping without the kernel: what a line costs in each step, 200 bytes each.
#include <benchmark/benchmark.h>

#include "core/logs/receiver.h"
#include "core/logs/shipper.h"

namespace virtproxy::logs {
namespace {

constexpr size_t kLine = 200;
constexpr LogId kLog{1, 2};

std::vector<std::byte> text() { return std::vector<std::byte>(kLine, std::byte{'x'}); }

Line line_at(uint64_t i, std::span<const std::byte> bytes) {
  return {1'700'000'000'000'000'000 + i * 1000, Credentials{4242, 1000, 1000}, bytes};
}

void count(benchmark::State& state) {
  state.SetItemsProcessed(state.iterations());
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(kLine));
}

// A record appended to a batch; each batch of 64 KiB is closed and gets its check.
void BM_LogEncode(benchmark::State& state) {
  const auto bytes = text();
  const uint64_t key = check_key(kLog);
  BatchBuilder builder(0, {});
  uint64_t i = 0;
  for (auto _ : state) {
    builder.add_line(line_at(++i, bytes));
    if (builder.size() >= 64u << 10) {
      auto batch = builder.finish();
      seal_batch(batch, kLog, key, i);
      benchmark::DoNotOptimize(batch.data());
    }
  }
  count(state);
}
BENCHMARK(BM_LogEncode);

// A line offered to the buffer, and its batch taken when it is closed.
void BM_LogBuffer(benchmark::State& state) {
  const auto bytes = text();
  const uint64_t key = check_key(kLog);
  Buffer buffer({}, {{"source"}});
  uint64_t i = 0;
  for (auto _ : state) {
    buffer.offer(0, line_at(++i, bytes), kLine, Instant(1));
    if (i % 256 == 0) {
      while (auto batch = buffer.take(Instant(1), Buffer::Traffic::kBusy)) {
        seal_batch(batch->bytes, kLog, key, i);
        benchmark::DoNotOptimize(batch->bytes.data());
      }
    }
  }
  count(state);
}
BENCHMARK(BM_LogBuffer);

// A line that is dropped because all memory is in use. Argument: sources.
void BM_LogDrop(benchmark::State& state) {
  const auto bytes = text();
  std::vector<SourceConfig> sources(static_cast<size_t>(state.range(0)), SourceConfig{"source"});
  Buffer buffer({}, sources);
  for (uint64_t i = 0; i < 100'000; ++i) buffer.offer(0, line_at(i, bytes), kLine, Instant(1));
  uint64_t i = 0;
  for (auto _ : state) buffer.offer(0, line_at(++i, bytes), kLine, Instant(1));
  count(state);
}
BENCHMARK(BM_LogDrop)->Arg(1)->Arg(64);

// A batch of 64 KiB verified and accounted for, for each line in it.
void BM_LogReceive(benchmark::State& state) {
  const auto bytes = text();
  std::vector<Received> found;
  Receiver receiver(1);
  std::vector<std::byte> hello;
  encode(Hello{kVersion, kLog, {}, 0, {{"source", {}, {}}}}, hello);
  receiver.feed(hello, found);
  const uint64_t key = check_key(kLog);
  BatchBuilder builder(0, {});
  uint64_t lines = 0;
  uint64_t position = 0;
  for (auto _ : state) {
    state.PauseTiming();
    while (builder.size() < 64u << 10) builder.add_line(line_at(++lines, bytes));
    auto batch = builder.finish();
    seal_batch(batch, kLog, key, position);
    position += batch.size();
    found.clear();
    state.ResumeTiming();
    if (receiver.feed(batch, found) != StreamFault::kNone) state.SkipWithError("a fault");
    benchmark::DoNotOptimize(found.data());
  }
  state.SetItemsProcessed(static_cast<int64_t>(lines));
  state.SetBytesProcessed(static_cast<int64_t>(lines * kLine));
}
BENCHMARK(BM_LogReceive);

// From the source through a spool to the bytes for the stream; the file is memory.
void BM_LogShipWithSpool(benchmark::State& state) {
  const auto bytes = text();
  const auto geometry = *spool_geometry(kSuperblockArea + (16u << 20), 1u << 20);
  std::vector<std::byte> file(geometry.file_size());
  Superblock empty;
  empty.geometry = geometry;
  Shipper shipper({}, {{"source"}}, kLog, kLog, Shipper::SpoolStart{{geometry}, empty});
  Receiver receiver(1);
  std::vector<Received> found;
  std::vector<std::byte> out;
  shipper.connected(Instant(1));
  uint64_t i = 0;
  const auto move = [&] {
    for (bool again = true; again;) {
      again = false;
      shipper.pump(Instant(1), 1);
      while (const auto write = shipper.spool()->next_write()) {
        std::copy(write->bytes.begin(), write->bytes.end(),
                  file.begin() + static_cast<ptrdiff_t>(write->offset));
        shipper.spool()->written(write->bytes.size());
        again = true;
      }
      if (const auto read = shipper.next_read()) {
        shipper.read(std::span(file).subspan(read->offset, read->size));
        again = true;
      }
      if (shipper.out().empty()) continue;
      out.swap(shipper.out());
      shipper.out().clear();
      // The receiver's part is measured above: here only its answers count.
      state.PauseTiming();
      found.clear();
      if (receiver.feed(out, found) != StreamFault::kNone) state.SkipWithError("a fault");
      receiver.acknowledge(receiver.log()->position, AckLevel::kSink);
      state.ResumeTiming();
      out.swap(receiver.out());
      shipper.feed(out);
      out.clear();
      receiver.out().clear();
      again = true;
    }
  };
  for (auto _ : state) {
    shipper.buffer().offer(0, line_at(++i, bytes), kLine, Instant(1));
    if (i % 1024 == 0) move();
  }
  count(state);
}
BENCHMARK(BM_LogShipWithSpool);

}  // namespace
}  // namespace virtproxy::logs
