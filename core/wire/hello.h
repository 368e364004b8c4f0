// The greeting of version 2: one whole packet of the 2010 format, a CONTROL with a message number
// that format does not know. A daemon of that age skips it; a new one answers with its own.
//
// A HELLO names the sender's epoch (a number drawn anew for every session) and echoes the epoch it
// has last seen from the other end. That pair is the session: an end is in it once it has read a
// HELLO that echoes its own epoch, and every frame after that HELLO belongs to it. What lies in the
// pipe before, from an earlier life of either end, is skipped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace virtproxy {

inline constexpr size_t kHelloSize = 1044;
inline constexpr uint16_t kProtocolVersion = 2;

namespace feature {
inline constexpr uint64_t kCommitTrailer = 1u << 0;    // trailers prove that a frame was finished
inline constexpr uint64_t kChecksumTrailer = 1u << 1;  // … and that its payload is unharmed
// Bit 2 is reserved, see PROTOCOL.md.
inline constexpr uint64_t kReliableReset = 1u << 3;  // RESET_AT: delivery comes before the reset
inline constexpr uint64_t kAll = kCommitTrailer | kChecksumTrailer | kReliableReset;
}  // namespace feature

struct Hello {
  uint16_t version_min = kProtocolVersion;
  uint16_t version_max = kProtocolVersion;
  bool probe = false;   // "I am in another session: echo this epoch and I will leave it"
  bool joined = false;  // the sender is in the session of `epoch` and `echo`
  uint64_t supported = feature::kAll;
  uint64_t wanted = 0;          // a feature is on when either end wants it and both support it
  uint64_t epoch = 0;           // never 0
  uint64_t echo = 0;            // 0: no greeting seen yet
  uint32_t max_streams = 0;     // streams the receiver of this HELLO may have open at once
  uint32_t initial_window = 0;  // credit that every stream starts with, bytes
  uint32_t max_frame = 0;       // largest DATA payload the sender takes, bytes
  uint64_t frames = 0;          // with `joined`: frames that the sender sent in it so far

  bool operator==(const Hello&) const = default;
};

inline bool speaks_our_version(const Hello& hello) {
  return hello.version_min <= kProtocolVersion && kProtocolVersion <= hello.version_max;
}

void encode_hello(const Hello& hello, std::byte* out);

// Decodes kHelloSize bytes; nothing when its check, magic or limits are wrong.
std::optional<Hello> decode_hello(const std::byte* in);

// Whether `bytes`, however few, may be the beginning of a greeting.
bool may_begin_hello(std::span<const std::byte> bytes);

struct HelloSearch {
  std::optional<Hello> hello;
  size_t at = 0;    // where the greeting starts, if there is one
  size_t skip = 0;  // bytes at the front that cannot be part of a greeting any more
};

// Finds the first whole greeting in `bytes`, at any alignment.
HelloSearch find_hello(std::span<const std::byte> bytes);

}  // namespace virtproxy
