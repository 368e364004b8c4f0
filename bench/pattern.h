// The bytes of a verified stream: a function of a seed and of the position alone, so that either
// end can make or check any piece of it without knowing how the stream was cut.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace virtproxy::bench {

static_assert(std::endian::native == std::endian::little, "the pattern is little-endian");

// Spreads an index over 64 bits; used to derive one seed from another.
constexpr uint64_t mix_seed(uint64_t value) {
  value += 0x9E3779B97F4A7C15;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

void fill_pattern(uint64_t seed, uint64_t position, std::span<std::byte> out);

// Index of the first wrong byte; data.size() when all are right.
size_t find_mismatch(uint64_t seed, uint64_t position, std::span<const std::byte> data);

}  // namespace virtproxy::bench
