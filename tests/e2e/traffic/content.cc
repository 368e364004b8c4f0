#include "content.h"

#include <cstring>

namespace virtproxy::traffic {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "whole words are copied as bytes");

void Content::Fill(uint64_t offset, std::span<char> out) const {
  size_t i = 0;
  for (; i < out.size() && (offset + i) % 8 != 0; ++i) out[i] = ByteAt(offset + i);
  uint64_t word = (offset + i) / 8;
  for (; i + 8 <= out.size(); i += 8, ++word) {
    const uint64_t value = Word(word);
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
    if (value != Word(word)) break;
  }
  for (; i < data.size(); ++i) {
    if (data[i] != ByteAt(offset + i)) return i;
  }
  return std::nullopt;
}

}  // namespace virtproxy::traffic
