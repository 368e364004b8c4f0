// Memory for one turn of the loop: message headers and vectors that the kernel reads while a
// request is submitted (IORING_FEAT_SUBMIT_STABLE) and never afterwards. Nothing is freed one by
// one.
#pragma once

#include <cstddef>
#include <memory>
#include <type_traits>
#include <vector>

#include "core/assert.h"

namespace virtproxy {

class Arena {
 public:
  template <typename T>
  T* allocate(size_t count) {
    static_assert(std::is_trivially_destructible_v<T>);
    const size_t bytes = (count * sizeof(T) + 15) / 16 * 16;
    VP_ASSERT(bytes <= kBlock);
    if (block_ == blocks_.size() || used_ + bytes > kBlock) next_block();
    void* at = blocks_[block_].get() + used_;
    used_ += bytes;
    return new (at) T[count]();
  }

  void reset() {
    block_ = 0;
    used_ = 0;
  }

 private:
  static constexpr size_t kBlock = 64 * 1024;

  void next_block() {
    if (block_ < blocks_.size()) ++block_;
    if (block_ == blocks_.size()) blocks_.push_back(std::make_unique<std::byte[]>(kBlock));
    used_ = 0;
  }

  std::vector<std::unique_ptr<std::byte[]>> blocks_;
  size_t block_ = 0;
  size_t used_ = 0;
};

}  // namespace virtproxy
