// A spool that was written by drawn operations, and whose file was then changed at drawn places or
// is drawn itself. A start recovers what it can: every line that is delivered is the one that was
// written there, in order, and what is lost is counted; nothing is unaccounted.

#include <algorithm>
#include <map>

#include "core/assert.h"
#include "tests/fuzz/input.h"
#include "tests/unit/core/log_spool_image.h"

using namespace virtproxy;
using namespace virtproxy::fuzz;
using namespace virtproxy::logs;
using namespace virtproxy::logs::test;

namespace {

const SpoolGeometry kGeometry =
    *spool_geometry(kSuperblockArea + 4 * uint64_t{kLeastSegmentSize}, kLeastSegmentSize);

std::string line_of(uint64_t log, uint16_t source, uint64_t seq) {
  std::string text = std::to_string(log) + "/" + std::to_string(source) + "/" + std::to_string(seq);
  text.resize(text.size() + seq * 131 % 3000, static_cast<char>('a' + seq % 26));
  return text;
}

void write_out(Spool& spool, Bytes& image, size_t most) {
  while (const auto write = spool.next_write()) {
    if (write->kind == SpoolWrite::Kind::kSync) {
      spool.synced();
      continue;
    }
    const size_t size = std::min(most, write->bytes.size());
    std::copy_n(write->bytes.begin(), size, image.begin() + static_cast<ptrdiff_t>(write->offset));
    spool.written(size);
    if (most == 0) return;  // the end of the process
  }
}

void fill(Input& in, Bytes& image, uint64_t log) {
  const auto state = recover(image, kGeometry);
  VP_ASSERT(state);
  const auto full =
      in.number(1) % 2 == 0 ? SpoolConfig::Full::kRefuse : SpoolConfig::Full::kDropOldest;
  Spool spool({kGeometry, full, 1u << 20}, *state, {log, log}, kBoot, {"a", "b"});
  Mark marks[2];
  for (uint64_t n = in.number(1) % 64; n > 0; --n) {
    const uint64_t what = in.number(1);
    const auto source = static_cast<uint16_t>(what % 2);
    BatchBuilder builder(source, marks[source]);
    for (uint64_t i = 0; i < 1 + what / 16; ++i) {
      const std::string text = line_of(log, source, builder.mark().seq);
      builder.add_line({i, {}, std::as_bytes(std::span(text))});
    }
    PendingBatch batch{source, marks[source], builder.mark(), builder.finish()};
    if (spool.append(batch, what)) marks[source] = batch.end;
    if (what & 2) spool.request_sync();
    if (what & 4) write_out(spool, image, SIZE_MAX);
  }
  if (in.number(1) % 4 != 0) write_out(spool, image, SIZE_MAX);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  Bytes image(kGeometry.file_size());
  const uint64_t form = in.number(1);
  for (uint64_t log = 1; log <= 1 + form % 3; ++log) fill(in, image, log);
  while (!in.empty()) {
    const uint64_t what = in.number(1);
    const uint64_t at = (what % 2 == 0 ? in.number(3) : in.number(2) % 512) % image.size();
    const auto bytes = in.bytes(what / 2 % 32);
    if (what >= 128) {
      // Another part of the file, as if a write had gone to the wrong place.
      const uint64_t from = in.number(3) % image.size();
      const size_t count = std::min({in.number(2), image.size() - at, image.size() - from});
      std::memmove(image.data() + at, image.data() + from, count);
    }
    std::copy_n(bytes.begin(), std::min<size_t>(bytes.size(), image.size() - at),
                image.begin() + static_cast<ptrdiff_t>(at));
  }
  const auto state = recover(image, kGeometry);
  if (!state) return 0;
  VP_ASSERT(state->logs.size() <= kMaxSpoolLogs);
  const Drained drained = drain(image, kGeometry, *state);
  VP_ASSERT(drained.fault == StreamFault::kNone && drained.complete);
  for (const DrainedLine& line : drained.lines) {
    VP_ASSERT(line.text == line_of(line.log.low, line.source, line.seq));
  }
  for (const LogAccount& log : drained.accounts) {
    for (const SourceAccount& source : log.sources) {
      VP_ASSERT(source.balanced() && source.unaccounted == Tally{});
    }
  }
  return 0;
}
