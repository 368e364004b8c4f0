// How much a test draws, or tries one after the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace virtproxy::test {

// With a sanitizer a run takes ten times as long. It judges code, which a part of the runs reaches.
#ifdef VIRTPROXY_SANITIZED
inline constexpr uint64_t kOneOf = 4;
#else
inline constexpr uint64_t kOneOf = 1;
#endif

// Runs with a seed: VIRTPROXY_SEEDS, or one of kOneOf of the usual number.
inline uint64_t seeds(uint64_t usual) {
  if (const char* const wanted = std::getenv("VIRTPROXY_SEEDS")) {
    return std::strtoull(wanted, nullptr, 10);
  }
  return std::max<uint64_t>(usual / kOneOf, 5);
}

}  // namespace virtproxy::test
