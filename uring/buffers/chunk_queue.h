// A queue of bytes that owns the memory they are copied to, in chunks (see send_queue.h).
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace virtproxy {

class ChunkQueue {
 public:
  ChunkQueue() = default;
  ~ChunkQueue() { clear(); }
  ChunkQueue(const ChunkQueue&) = delete;
  ChunkQueue& operator=(const ChunkQueue&) = delete;

  bool empty() const { return size_ == 0; }
  size_t size() const { return size_; }

  void append(std::span<const std::byte> bytes);
  // Points `pieces` to the first `size` bytes, or to as many as fit. Returns the number of pieces
  // used.
  size_t front(std::span<iovec> pieces, size_t size) const;
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
