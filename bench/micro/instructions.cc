// A fixed amount of work of one kind, for counting its instructions:
//
//     virtproxy-instructions CASE COUNT
//     virtproxy-instructions --cases        the cases, one a line, each with its unit
//     virtproxy-instructions --compiler     what this was compiled by
//
// bench/instructions.py runs each case twice under callgrind with different counts; the difference
// is free of whatever starting costs.

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string_view>
#include <vector>

#include "bench/micro/session_pair.h"
#include "core/flow/scheduler.h"
#include "core/wire/frame.h"
#include "core/wire/hello.h"
#include "uring/base/units.h"

namespace virtproxy {
namespace {

// Keeps the compiler from leaving out what nobody uses.
template <typename T>
void keep(const T& value) {
  asm volatile("" : : "r"(&value) : "memory");
}

void encode(uint64_t count) {
  const DirectionKey key = direction_key(1, 2);
  std::byte out[kHeaderSize];
  for (uint64_t i = 0; i < count; ++i) {
    encode_header({FrameType::kData, true, 7, 65536, i}, key, out);
    keep(out);
  }
}

void decode(uint64_t count) {
  const DirectionKey key = direction_key(1, 2);
  std::byte bytes[kHeaderSize];
  encode_header({FrameType::kData, true, 7, 65536, 1234}, key, bytes);
  for (uint64_t i = 0; i < count; ++i) {
    FrameHeader header;
    keep(bytes);
    if (decode_header(bytes, key, header) != Fault::kNone) std::abort();
    keep(header);
  }
}

void checksum(uint64_t count) {
  const std::vector<std::byte> frame(kHeaderSize + 1024);
  for (uint64_t done = 0; done < count; done += 1024) {
    keep(frame_trailer(TrailerKind::kChecksum, frame, {done}));
  }
}

struct Traffic {
  uint32_t frame;
  uint32_t streams;
  uint64_t features = 0;
  uint32_t window = 1u << 20;
};

// Frames of one size on streams that take turns, `count` in all.
void frames(const Traffic& traffic, uint64_t count) {
  SessionPair pair(traffic.features, traffic.window);
  std::vector<StreamKey> streams;
  for (uint32_t i = 0; i < traffic.streams; ++i) streams.push_back(pair.open());
  for (uint64_t done = 0; done < count;) {
    for (const StreamKey stream : streams) {
      // Less only at the start, while windows grow.
      const uint64_t piece = std::min<uint64_t>(traffic.frame, pair.near().request_credit(stream));
      if (piece == 0) continue;
      pair.near().queue(stream, piece);
      ++done;
    }
    pair.exchange();
  }
}

// Streams that open, carry 64 bytes and end both ways.
void short_streams(uint64_t count) {
  SessionPair pair;
  for (uint64_t done = 0; done < count; ++done) {
    const StreamKey stream = pair.open();
    pair.near().queue(stream, 64);
    pair.near().end(stream);
    do {
      pair.exchange();
    } while (pair.near().stats().streams > 0);
  }
}

// Turns among 64 streams that are always ready.
void turns(uint64_t count) {
  constexpr uint32_t kStreams = 64;
  constexpr uint32_t kQuantum = 65536;
  Slab<Stream> streams;
  Scheduler<Stream> scheduler(kQuantum);
  for (uint32_t i = 0; i < kStreams; ++i) scheduler.add(streams, streams.insert(Stream{}).slot);
  for (uint64_t done = 0; done < count;) {
    scheduler.begin(256 * 1024);
    for (Scheduler<Stream>::Turn turn = scheduler.next(streams); turn.slot != IndexLink::kNone;
         turn = scheduler.next(streams)) {
      scheduler.sent(streams, turn.slot, std::min(turn.bytes, 4096u), kHeaderSize, true);
      ++done;
    }
  }
}

struct Case {
  std::string_view name;
  std::string_view unit;
  std::function<void(uint64_t)> run;
};

const std::vector<Case>& cases() {
  const auto traffic = [](Traffic of) { return [of](uint64_t count) { frames(of, count); }; };
  static const std::vector<Case> all = {
      {"encode", "header", encode},
      {"decode", "header", decode},
      {"checksum", "byte", checksum},
      {"scheduler", "turn", turns},
      {"frames-64B-1-stream", "frame", traffic({64, 1})},
      {"frames-64B-64-streams", "frame", traffic({64, 64})},
      {"frames-64B-1000-streams", "frame", traffic({64, 1000})},
      {"frames-4K-16-streams", "frame", traffic({4096, 16})},
      {"frames-64K-1-stream", "frame", traffic({65536, 1})},
      {"frames-64B-64-streams-commit", "frame", traffic({64, 64, feature::kCommitTrailer})},
      {"frames-4K-16-streams-checksum", "frame", traffic({4096, 16, feature::kChecksumTrailer})},
      {"frames-and-credit", "frame", traffic({16384, 1, 0, 32768})},
      {"short-streams", "stream", short_streams},
  };
  return all;
}

const char* compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#else
  return "gcc " __VERSION__;
#endif
}

int run(int argc, char** argv) {
  const std::string_view first = argc > 1 ? argv[1] : "";
  if (first == "--compiler") {
    std::puts(compiler());
    return 0;
  }
  if (first == "--cases") {
    for (const Case& each : cases()) {
      std::printf("%s %s\n", each.name.data(), each.unit.data());
    }
    return 0;
  }
  const auto found = std::find_if(cases().begin(), cases().end(),
                                  [first](const Case& each) { return each.name == first; });
  const auto count = parse_number<uint64_t>(argc == 3 ? argv[2] : "");
  if (!count || found == cases().end()) {
    std::fprintf(stderr, "usage: virtproxy-instructions CASE COUNT | --cases | --compiler\n");
    return 2;
  }
  found->run(*count);
  return 0;
}

}  // namespace
}  // namespace virtproxy

int main(int argc, char** argv) { return virtproxy::run(argc, argv); }
