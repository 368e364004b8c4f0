#include "core/wire/hello.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/wire/frame.h"
#include "core/wire/little_endian.h"
#include "core/wire/protocol_limits.h"

namespace virtproxy {
namespace {

constexpr uint32_t kV1Control = 1;
constexpr uint32_t kV1Magic = 0x1F374059;
constexpr uint32_t kHelloMessage = 0x32585056;  // "VPX2" on the wire
constexpr uint64_t kHelloTag = 0x9d3f1be2c45a7086;
constexpr uint32_t kProbe = 1;
constexpr uint32_t kJoined = 2;

constexpr size_t kTagAt = 8;
constexpr size_t kVersionMinAt = 16;
constexpr size_t kVersionMaxAt = 18;
constexpr size_t kFlagsAt = 20;
constexpr size_t kSupportedAt = 24;
constexpr size_t kWantedAt = 32;
constexpr size_t kEpochAt = 40;
constexpr size_t kEchoAt = 48;
constexpr size_t kMaxStreamsAt = 56;
constexpr size_t kInitialWindowAt = 60;
constexpr size_t kMaxFrameAt = 64;
constexpr size_t kFramesAt = 72;
constexpr size_t kCheckAt = 1032;
constexpr size_t kMagicAt = 1040;

constexpr size_t kPrefixSize = 16;

std::array<std::byte, kPrefixSize> prefix() {
  std::array<std::byte, kPrefixSize> bytes;
  store_le(bytes.data(), kV1Control);
  store_le(bytes.data() + 4, kHelloMessage);
  store_le(bytes.data() + kTagAt, kHelloTag);
  return bytes;
}

}  // namespace

void encode_hello(const Hello& hello, std::byte* out) {
  std::memset(out, 0, kHelloSize);
  const auto start = prefix();
  std::memcpy(out, start.data(), start.size());
  store_le(out + kVersionMinAt, hello.version_min);
  store_le(out + kVersionMaxAt, hello.version_max);
  store_le(out + kFlagsAt, (hello.probe ? kProbe : 0u) | (hello.joined ? kJoined : 0u));
  store_le(out + kSupportedAt, hello.supported);
  store_le(out + kWantedAt, hello.wanted);
  store_le(out + kEpochAt, hello.epoch);
  store_le(out + kEchoAt, hello.echo);
  store_le(out + kMaxStreamsAt, hello.max_streams);
  store_le(out + kInitialWindowAt, hello.initial_window);
  store_le(out + kMaxFrameAt, hello.max_frame);
  store_le(out + kFramesAt, hello.frames);
  store_le<uint64_t>(out + kCheckAt, XXH3_64bits(out, kCheckAt));
  store_le(out + kMagicAt, kV1Magic);
}

std::optional<Hello> decode_hello(const std::byte* in) {
  const auto start = prefix();
  if (std::memcmp(in, start.data(), start.size()) != 0) return std::nullopt;
  if (load_le<uint32_t>(in + kMagicAt) != kV1Magic) return std::nullopt;
  if (load_le<uint64_t>(in + kCheckAt) != XXH3_64bits(in, kCheckAt)) return std::nullopt;
  Hello hello;
  hello.version_min = load_le<uint16_t>(in + kVersionMinAt);
  hello.version_max = load_le<uint16_t>(in + kVersionMaxAt);
  const auto flags = load_le<uint32_t>(in + kFlagsAt);
  hello.probe = (flags & kProbe) != 0;
  hello.joined = (flags & kJoined) != 0;
  hello.supported = load_le<uint64_t>(in + kSupportedAt);
  hello.wanted = load_le<uint64_t>(in + kWantedAt);
  hello.epoch = load_le<uint64_t>(in + kEpochAt);
  hello.echo = load_le<uint64_t>(in + kEchoAt);
  hello.max_streams = load_le<uint32_t>(in + kMaxStreamsAt);
  hello.initial_window = load_le<uint32_t>(in + kInitialWindowAt);
  hello.max_frame = load_le<uint32_t>(in + kMaxFrameAt);
  hello.frames = load_le<uint64_t>(in + kFramesAt);
  const bool sane = hello.epoch != 0 && hello.version_min <= hello.version_max &&
                    hello.max_streams >= 1 && hello.max_streams <= kMaxSlots &&
                    hello.initial_window >= 1 &&
                    hello.initial_window <= protocol_limits::kMaxWindow &&
                    hello.max_frame >= protocol_limits::kMinFrame &&
                    hello.max_frame <= protocol_limits::kMaxFrame;
  if (!sane) return std::nullopt;
  return hello;
}

bool may_begin_hello(std::span<const std::byte> bytes) {
  static const auto start = prefix();
  return std::memcmp(bytes.data(), start.data(), std::min(bytes.size(), start.size())) == 0;
}

HelloSearch find_hello(std::span<const std::byte> bytes) {
  static const auto start = prefix();
  const std::string_view haystack(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::string_view needle(reinterpret_cast<const char*>(start.data()), start.size());
  size_t from = 0;
  for (;;) {
    const size_t at = haystack.find(needle, from);
    if (at == std::string_view::npos) {
      // The last bytes may be the beginning of a prefix that is still arriving.
      const size_t keep = std::min(bytes.size(), needle.size() - 1);
      return {std::nullopt, 0, std::max(from, bytes.size() - keep)};
    }
    if (bytes.size() - at < kHelloSize) return {std::nullopt, 0, at};
    if (auto hello = decode_hello(bytes.data() + at)) return {hello, at, at};
    from = at + 1;
  }
}

}  // namespace virtproxy
