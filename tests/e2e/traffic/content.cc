#include "content.h"

#include <bit>
#include <cstring>

namespace virtproxy::traffic {
namespace {

// In memory its bytes are those of the content: the lowest comes first, whatever the machine.
uint64_t AsBytes(uint64_t word) {
  if constexpr (std::endian::native == std::endian::big) return __builtin_bswap64(word);
  return word;
}

}  // namespace

void Content::Fill(uint64_t offset, std::span<char> out) const {
  size_t i = 0;
  for (; i < out.size() && (offset + i) % 8 != 0; ++i) out[i] = ByteAt(offset + i);
  uint64_t word = (offset + i) / 8;
  for (; i + 8 <= out.size(); i += 8, ++word) {
    const uint64_t value = AsBytes(Word(word));
    std::memcpy(out.data() + i, &value, 8);
  }
  for (; i < out.size(); ++i) out[i] = ByteAt(offset + i);
}

std::optional<size_t> Content::FirstDifference(uint64_t offset, std::span<const char> data) const {
  size_t i = 0;
  for (; i < data.size() && (offset + i) % 8 != 0; ++i) {
    if (data[i] != ByteAt(offset + i)) return i;
  }
  uint64_t word = (offset + i) / 8;
  for (; i + 8 <= data.size(); i += 8, ++word) {
    uint64_t value;
    std::memcpy(&value, data.data() + i, 8);
    if (value != AsBytes(Word(word))) break;
  }
  for (; i < data.size(); ++i) {
    if (data[i] != ByteAt(offset + i)) return i;
  }
  return std::nullopt;
}

}  // namespace virtproxy::traffic
