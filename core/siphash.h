// SipHash (Aumasson and Bernstein, 2012) of one 64-bit number: a hash whose collisions cannot be
// computed without the key. SipHash-1-3 is what hash tables use; 2-4 has published test vectors.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace virtproxy {

// Random, and used for nothing else.
using HashKey = std::array<uint64_t, 2>;

template <int CompressionRounds, int FinalRounds>
uint64_t siphash(const HashKey& key, uint64_t number) {
  uint64_t v0 = key[0] ^ 0x736f6d6570736575;
  uint64_t v1 = key[1] ^ 0x646f72616e646f6d;
  uint64_t v2 = key[0] ^ 0x6c7967656e657261;
  uint64_t v3 = key[1] ^ 0x7465646279746573;
  const auto mix = [&](int rounds) {
    for (int i = 0; i < rounds; ++i) {
      v0 += v1;
      v1 = std::rotl(v1, 13) ^ v0;
      v0 = std::rotl(v0, 32);
      v2 += v3;
      v3 = std::rotl(v3, 16) ^ v2;
      v0 += v3;
      v3 = std::rotl(v3, 21) ^ v0;
      v2 += v1;
      v1 = std::rotl(v1, 17) ^ v2;
      v2 = std::rotl(v2, 32);
    }
  };
  const auto compress = [&](uint64_t word) {
    v3 ^= word;
    mix(CompressionRounds);
    v0 ^= word;
  };
  compress(number);
  compress(uint64_t{sizeof number} << 56);
  v2 ^= 0xff;
  mix(FinalRounds);
  return v0 ^ v1 ^ v2 ^ v3;
}

}  // namespace virtproxy
