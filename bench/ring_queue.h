#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace virtproxy::bench {

// A FIFO that allocates only when it grows beyond its largest size so far.
template <typename T>
class RingQueue {
 public:
  bool empty() const { return head_ == tail_; }
  size_t size() const { return tail_ - head_; }

  void push(T value) {
    if (size() == slots_.size()) grow();
    slots_[tail_++ & (slots_.size() - 1)] = std::move(value);
  }
  T pop() { return std::move(slots_[head_++ & (slots_.size() - 1)]); }

 private:
  void grow() {
    std::vector<T> larger(slots_.empty() ? 64 : slots_.size() * 2);
    const size_t count = size();
    for (size_t i = 0; i < count; ++i) larger[i] = pop();
    slots_ = std::move(larger);
    head_ = 0;
    tail_ = count;
  }

  std::vector<T> slots_;
  size_t head_ = 0;
  size_t tail_ = 0;
};

}  // namespace virtproxy::bench
