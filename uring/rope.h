// Bytes that came over the channel for a socket which does not take them now. They are copied out
// of the channel's read buffer, so that a slow reader pins its own window and nothing else.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace virtproxy {

class Rope {
 public:
  Rope() = default;
  ~Rope() { clear(); }
  Rope(const Rope&) = delete;
  Rope& operator=(const Rope&) = delete;

  bool empty() const { return size_ == 0; }
  size_t size() const { return size_; }

  void append(std::span<const std::byte> bytes);
  // The first bytes, in up to `most` pieces; they stay where they are until consume(). How many
  // pieces.
  size_t front(iovec* pieces, size_t most) const;
  void consume(size_t bytes);
  void clear();

 private:
  struct Chunk {
    Chunk* next;
    uint32_t begin;
    uint32_t end;
    uint32_t capacity;
    std::byte* data() { return reinterpret_cast<std::byte*>(this + 1); }
  };
  static Chunk* make(size_t bytes);
  static void free(Chunk* chunk);

  Chunk* head_ = nullptr;
  Chunk* tail_ = nullptr;
  size_t size_ = 0;
};

}  // namespace virtproxy
