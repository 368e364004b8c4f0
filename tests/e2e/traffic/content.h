// The bytes of a stream: pseudo-random, and a function of (seed, position) alone, so that a
// receiver can tell every wrong byte by its offset without having kept what the sender wrote.

#ifndef VIRTPROXY_TESTS_E2E_TRAFFIC_CONTENT_H_
#define VIRTPROXY_TESTS_E2E_TRAFFIC_CONTENT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace virtproxy::traffic {

// The finaliser of splitmix64: every input bit reaches every output bit.
constexpr uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

class Content {
 public:
  explicit Content(uint64_t seed) : seed_(Mix(seed)) {}

  void Fill(uint64_t offset, std::span<char> out) const;

  // Index within `data` of the first byte that does not belong at `offset + index`.
  std::optional<size_t> FirstDifference(uint64_t offset, std::span<const char> data) const;

 private:
  uint64_t Word(uint64_t index) const { return Mix(seed_ + index); }
  char ByteAt(uint64_t offset) const {
    return static_cast<char>(Word(offset / 8) >> (8 * (offset % 8)));
  }

  uint64_t seed_;
};

// A small generator for everything else that is drawn: sizes, pauses, sides, offsets.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() { return Mix(state_++); }
  // Uniform in [low, high].
  uint64_t Between(uint64_t low, uint64_t high) { return low + Next() % (high - low + 1); }
  bool OneIn(uint64_t n) { return Next() % n == 0; }

 private:
  uint64_t state_;
};

}  // namespace virtproxy::traffic

#endif  // VIRTPROXY_TESTS_E2E_TRAFFIC_CONTENT_H_
