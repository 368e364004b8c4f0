// Little-endian integers at any alignment: the only byte order and the only access the wire knows.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace virtproxy {

static_assert(std::endian::native == std::endian::little,
              "big-endian machines need a byte swap in load_le and store_le");

template <std::unsigned_integral T>
T load_le(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <std::unsigned_integral T>
void store_le(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

}  // namespace virtproxy
