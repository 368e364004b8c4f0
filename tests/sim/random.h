// The one source of chance of a simulated world (xoshiro256**; Blackman and Vigna, 2018).
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "core/time.h"

namespace virtproxy::sim {

// A number that depends on `value` alone.
constexpr uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

class Random {
 public:
  explicit Random(uint64_t seed) {
    for (uint64_t& word : state_) word = seed = mix(seed);
  }

  uint64_t next() {
    const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  // 0 to limit - 1.
  uint64_t below(uint64_t limit) {
    return static_cast<uint64_t>((static_cast<Wide>(next()) * limit) >> 64);
  }
  // low to high, both included.
  uint64_t between(uint64_t low, uint64_t high) { return low + below(high - low + 1); }
  // Small numbers as likely as large ones, by magnitude.
  uint64_t magnitude(uint64_t low, uint64_t high) {
    const unsigned least = static_cast<unsigned>(std::bit_width(low));
    const unsigned most = static_cast<unsigned>(std::bit_width(high));
    const uint64_t top = uint64_t{1} << between(least, most);
    const uint64_t drawn = between(top / 2, top - 1);
    return drawn < low ? low : drawn > high ? high : drawn;
  }
  bool chance(double probability) {
    return probability > 0 && static_cast<double>(next() >> 11) * 0x1p-53 < probability;
  }
  Duration duration(Duration low, Duration high) {
    return Duration(static_cast<Duration::rep>(
        between(static_cast<uint64_t>(low.count()), static_cast<uint64_t>(high.count()))));
  }
  template <typename Container>
  auto& pick(Container& from) {
    return from[below(from.size())];
  }

 private:
  __extension__ using Wide = unsigned __int128;

  std::array<uint64_t, 4> state_{};
};

}  // namespace virtproxy::sim
