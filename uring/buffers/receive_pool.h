// Buffers that bytes from applications are received into, of one channel.
//
// There are two sizes: small ones for messages, large ones for bulk. All memory is mapped at once
// and becomes resident as it is used. Its size bounds the bytes of a channel that wait to be sent.
// Where the driver picks buffers itself, a few free ones of each size are offered to it, last used
// first, so that a channel stays in the cache.
//
// A buffer has a reference count: the queue of its connection holds one reference, and every write
// to the channel that is in flight holds one for each part that it sends.
//
// For a channel that is written in few contiguous pieces, large buffers keep room free before and
// behind what is received, for the header and the trailer of its frame.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/wire/frame.h"
#include "uring/io/driver.h"

namespace virtproxy {

enum class BufferSize : uint8_t { kSmall, kLarge };

struct Buffer {
  std::byte* data = nullptr;
  uint32_t begin = 0;  // first byte not yet handed to the channel
  uint32_t end = 0;    // end of what was received
  uint32_t references = 0;
  uint32_t index = 0;
  uint32_t first = 0;  // first byte of what was received
  BufferSize size = BufferSize::kSmall;
  bool touched = false;    // its memory is resident
  Buffer* next = nullptr;  // in its connection's queue

  // Bytes not yet handed to the channel, and all that were received.
  uint32_t length() const { return end - begin; }
  uint32_t received() const { return end - first; }
};

class ReceivePool {
 public:
  static constexpr uint32_t kSmallBytes = 4096;
  static constexpr uint32_t kLargeBytes = 65536;
  // The room for header and trailer, bytes. The first is a multiple of a cache line.
  static constexpr uint32_t kBefore = 64;
  static constexpr uint32_t kBehind = kTrailerSize;
  static_assert(kBefore >= kHeaderSize);
  static constexpr uint32_t kFramedBytes = kLargeBytes - kBefore - kBehind;

  // `bytes` of memory, of which a quarter becomes small buffers. `first_group` and the number after
  // it name the buffer groups of the driver.
  ReceivePool(Driver& driver, size_t bytes, uint16_t first_group, bool room_for_frame = false);
  ~ReceivePool();
  ReceivePool(const ReceivePool&) = delete;
  ReceivePool& operator=(const ReceivePool&) = delete;

  // Whether the driver picks buffers; otherwise take() one when bytes are there.
  bool provided() const { return provided_; }
  uint16_t group(BufferSize size) const { return at(size).group; }
  // Bytes that can be received into a buffer.
  uint32_t capacity(BufferSize size) const {
    return bytes_of(size) - at(size).before - at(size).behind;
  }

  // The buffer the driver picked, holding `bytes`, with one reference.
  Buffer* claim(BufferSize size, uint32_t index, uint32_t bytes);
  // A free buffer with one reference, or nullptr.
  Buffer* take(BufferSize size);

  void add_reference(Buffer* buffer) { ++buffer->references; }
  void release(Buffer* buffer);
  // Free bytes before and behind a part that was just taken from a connection's queue. Zero if
  // anything else points into the buffer.
  static size_t room_before(const Buffer* buffer, std::span<const std::byte> part);
  size_t room_behind(const Buffer* buffer) const {
    return buffer->length() == 0 ? at(buffer->size).behind : 0;
  }

  // Offers free buffers to the driver; once a turn.
  void replenish();
  // How many more receives would get a buffer.
  size_t ready(BufferSize size) const {
    return provided_ ? at(size).offered : at(size).free.size();
  }
  size_t in_use() const;

  // Returns the memory of buffers that were not needed since the last call to the system. True if a
  // later call may find more. Of thousands of buffers each call returns some, and trims_on() is
  // true until all are.
  bool trim();
  bool trims_on() const { return trims_on_; }

 private:
  struct Class {
    BufferSize size = BufferSize::kSmall;
    uint16_t group = 0;
    uint32_t before = 0;  // bytes kept free
    uint32_t behind = 0;
    std::vector<Buffer> buffers;
    std::vector<uint32_t> free;  // last released on top
    size_t fewest_free = 0;      // since trim() came to its end
    size_t trimmed = 0;          // of those, looked at by trim()
    uint32_t most_offered = 0;
    uint32_t offered = 0;
  };
  static constexpr uint32_t bytes_of(BufferSize size) {
    return size == BufferSize::kSmall ? kSmallBytes : kLargeBytes;
  }
  Class& at(BufferSize size) { return classes_[static_cast<size_t>(size)]; }
  const Class& at(BufferSize size) const { return classes_[static_cast<size_t>(size)]; }
  Buffer& pop_free(Class& of);

  Driver& driver_;
  std::byte* memory_ = nullptr;
  size_t mapped_ = 0;
  bool trims_on_ = false;
  bool provided_ = false;
  std::array<Class, 2> classes_;
};

}  // namespace virtproxy
