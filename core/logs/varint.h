// Integers of variable length: 7 bits a byte, the lowest first, the top bit set in all but the last
// (LEB128). The shortest form is the only valid one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace virtproxy::logs {

inline constexpr size_t kMaxVarint = 10;

// Writes at most kMaxVarint bytes; returns the end.
inline std::byte* put_varint(std::byte* out, uint64_t value) {
  while (value >= 0x80) {
    *out++ = static_cast<std::byte>(value | 0x80);
    value >>= 7;
  }
  *out++ = static_cast<std::byte>(value);
  return out;
}

// Takes an integer off the front of `in`; false if there is none, or one not in its shortest form.
inline bool get_varint(std::span<const std::byte>& in, uint64_t& value) {
  value = 0;
  for (size_t i = 0; i < in.size() && i < kMaxVarint; ++i) {
    const auto byte = static_cast<uint8_t>(in[i]);
    const auto bits = static_cast<uint64_t>(byte & 0x7f);
    if (i == kMaxVarint - 1 && byte > 1) return false;
    value |= bits << (7 * i);
    if (byte < 0x80) {
      in = in.subspan(i + 1);
      return byte != 0 || i == 0;
    }
  }
  return false;
}

// Small differences of either sign as small numbers: 0, −1, 1, −2, …
constexpr uint64_t zigzag(uint64_t difference) {
  return (difference << 1) ^ (0 - (difference >> 63));
}
constexpr uint64_t unzigzag(uint64_t value) { return (value >> 1) ^ (0 - (value & 1)); }

}  // namespace virtproxy::logs
