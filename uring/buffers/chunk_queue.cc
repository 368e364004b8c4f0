#include "uring/buffers/chunk_queue.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "core/assert.h"

namespace virtproxy {
namespace {

// The size of a chunk is that of what is appended, rounded up to a multiple of this. Rounding
// wastes little on a stream with a small window, and much data is moved in large pieces.
constexpr size_t kStep = 512;
constexpr size_t kMostBytes = 64 * 1024;

}  // namespace

ChunkQueue::Chunk* ChunkQueue::make(size_t bytes) {
  const size_t wanted = std::min(bytes + sizeof(Chunk), kMostBytes);
  const size_t size = (wanted + kStep - 1) / kStep * kStep;
  auto* chunk = static_cast<Chunk*>(::operator new(size));
  *chunk = {nullptr, 0, 0, static_cast<uint32_t>(size - sizeof(Chunk))};
  return chunk;
}

void ChunkQueue::free(Chunk* chunk) { ::operator delete(chunk); }

void ChunkQueue::append(std::span<const std::byte> bytes) {
  size_ += bytes.size();
  while (!bytes.empty()) {
    if (tail_ == nullptr || tail_->end == tail_->capacity) {
      Chunk* chunk = make(bytes.size());
      (tail_ == nullptr ? head_ : tail_->next) = chunk;
      tail_ = chunk;
    }
    const size_t size = std::min<size_t>(bytes.size(), tail_->capacity - tail_->end);
    std::memcpy(tail_->data() + tail_->end, bytes.data(), size);
    tail_->end += static_cast<uint32_t>(size);
    bytes = bytes.subspan(size);
  }
}

size_t ChunkQueue::front(std::span<iovec> pieces, size_t size) const {
  VP_ASSERT(size <= size_);
  size_t count = 0;
  for (Chunk* chunk = head_; size > 0 && count < pieces.size(); chunk = chunk->next) {
    const size_t part = std::min<size_t>(size, chunk->end - chunk->begin);
    pieces[count++] = {chunk->data() + chunk->begin, part};
    size -= part;
  }
  return count;
}

void ChunkQueue::consume(size_t bytes) {
  VP_ASSERT(bytes <= size_);
  size_ -= bytes;
  while (bytes > 0) {
    const size_t size = std::min<size_t>(bytes, head_->end - head_->begin);
    head_->begin += static_cast<uint32_t>(size);
    bytes -= size;
    if (head_->begin < head_->end) break;
    Chunk* next = head_->next;
    free(head_);
    head_ = next;
    if (head_ == nullptr) tail_ = nullptr;
  }
}

void ChunkQueue::clear() {
  while (head_ != nullptr) {
    Chunk* next = head_->next;
    free(head_);
    head_ = next;
  }
  tail_ = nullptr;
  size_ = 0;
}

}  // namespace virtproxy
