#include "pattern.h"

#include <algorithm>
#include <cstring>

namespace virtproxy::bench {
namespace {

constexpr size_t kWord = sizeof(uint64_t);
constexpr size_t kBlockWords = 32;

inline uint64_t word_at(uint64_t seed, uint64_t index) {
  const uint64_t value = seed + index * 0x9E3779B97F4A7C15;
  return value ^ (value >> 29);
}

inline std::byte byte_at(uint64_t seed, uint64_t position) {
  return static_cast<std::byte>(word_at(seed, position / kWord) >> (8 * (position % kWord)));
}

size_t unaligned_head(uint64_t position, size_t size) {
  return std::min<size_t>(size, (kWord - position % kWord) % kWord);
}

size_t find_mismatch_slowly(uint64_t seed, uint64_t position, const std::byte* data, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    if (data[i] != byte_at(seed, position + i)) return i;
  }
  return size;
}

}  // namespace

void fill_pattern(uint64_t seed, uint64_t position, std::span<std::byte> out) {
  std::byte* data = out.data();
  size_t left = out.size();
  for (size_t head = unaligned_head(position, left); head > 0; --head, --left) {
    *data++ = byte_at(seed, position++);
  }
  uint64_t index = position / kWord;
  for (; left >= kWord; left -= kWord, data += kWord, ++index) {
    const uint64_t word = word_at(seed, index);
    std::memcpy(data, &word, kWord);
  }
  position = index * kWord;
  for (; left > 0; --left) *data++ = byte_at(seed, position++);
}

size_t find_mismatch(uint64_t seed, uint64_t position, std::span<const std::byte> data) {
  const size_t head = unaligned_head(position, data.size());
  size_t done = find_mismatch_slowly(seed, position, data.data(), head);
  if (done < head) return done;
  while (data.size() - done >= kBlockWords * kWord) {
    const uint64_t first = (position + done) / kWord;
    uint64_t difference = 0;
    for (size_t i = 0; i < kBlockWords; ++i) {
      uint64_t word;
      std::memcpy(&word, data.data() + done + i * kWord, kWord);
      difference |= word ^ word_at(seed, first + i);
    }
    if (difference != 0) break;
    done += kBlockWords * kWord;
  }
  return done + find_mismatch_slowly(seed, position + done, data.data() + done, data.size() - done);
}

}  // namespace virtproxy::bench
