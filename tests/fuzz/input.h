// The bytes of one run, read as numbers; zeros once they are used up.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace virtproxy::fuzz {

class Input {
 public:
  Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  bool empty() const { return size_ == 0; }
  uint64_t number(size_t bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < bytes && size_ > 0; ++i, ++data_, --size_) {
      value |= uint64_t{*data_} << (8 * i);
    }
    return value;
  }
  // Fewer where fewer are left.
  std::span<const std::byte> bytes(size_t count) {
    count = std::min(count, size_);
    const std::span taken(reinterpret_cast<const std::byte*>(data_), count);
    data_ += count;
    size_ -= count;
    return taken;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

}  // namespace virtproxy::fuzz
