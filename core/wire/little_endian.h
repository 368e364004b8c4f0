// Little-endian integers at any alignment: the only byte order and the only access the wire knows.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace virtproxy {

static_assert(std::endian::native == std::endian::little || std::endian::native == std::endian::big);

// The value with its bytes in reverse; a compiler makes one instruction of it.
template <std::unsigned_integral T>
constexpr T swap_bytes(T value) {
  auto bytes = std::bit_cast<std::array<std::byte, sizeof(T)>>(value);
  std::ranges::reverse(bytes);
  return std::bit_cast<T>(bytes);
}

template <std::unsigned_integral T>
T load_le(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return std::endian::native == std::endian::little ? value : swap_bytes(value);
}

template <std::unsigned_integral T>
void store_le(std::byte* to, T value) {
  if constexpr (std::endian::native == std::endian::big) value = swap_bytes(value);
  std::memcpy(to, &value, sizeof value);
}

}  // namespace virtproxy
