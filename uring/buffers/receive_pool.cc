#include "uring/buffers/receive_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>

#include "core/assert.h"
#include "uring/base/anonymous_mapping.h"
#include "uring/base/log.h"

namespace virtproxy {
namespace {

// How many free buffers the kernel is offered at once.
constexpr uint32_t kSmallOffered = 64;
constexpr uint32_t kLargeOffered = 16;

// The kernel takes some microseconds to take the pages of one.
constexpr unsigned kTrimmedAtOnce = 64;

// The kernel names a buffer by 16 bits.
constexpr size_t kMostBuffers = 65536;

size_t ring_bytes(uint32_t entries) { return entries * sizeof(io_uring_buf); }

}  // namespace

ReceivePool::ReceivePool(Ring& ring, size_t bytes, uint16_t first_group, bool room_for_frame)
    : ring_(ring) {
  const size_t small = std::clamp<size_t>(bytes / 4 / kSmallBytes, 16, kMostBuffers);
  const size_t large = std::clamp<size_t>((bytes - bytes / 4) / kLargeBytes, 8, kMostBuffers);
  mapped_ = small * kSmallBytes + large * kLargeBytes;
  memory_ = map_anonymous(mapped_);

  std::byte* at_byte = memory_;
  if (room_for_frame) {
    at(BufferSize::kLarge).before = kBefore;
    at(BufferSize::kLarge).behind = kBehind;
  }
  for (const BufferSize size : {BufferSize::kSmall, BufferSize::kLarge}) {
    Class& of = at(size);
    of.size = size;
    of.group = static_cast<uint16_t>(first_group + static_cast<uint16_t>(size));
    of.buffers.resize(size == BufferSize::kSmall ? small : large);
    for (uint32_t i = 0; i < of.buffers.size(); ++i) {
      Buffer& buffer = of.buffers[i];
      buffer.data = at_byte;
      buffer.index = i;
      buffer.size = size;
      at_byte += bytes_of(size);
    }
    for (uint32_t i = static_cast<uint32_t>(of.buffers.size()); i > 0; --i)
      of.free.push_back(i - 1);
  }
  if (ring_.features().provided_buffers) {
    provided_ = provide(at(BufferSize::kSmall)) && provide(at(BufferSize::kLarge));
    if (!provided_) {
      log_warn("the kernel takes no provided buffers: receiving costs one more request each");
    }
  }
  replenish();
}

bool ReceivePool::provide(Class& of) {
  const uint32_t most = of.size == BufferSize::kSmall ? kSmallOffered : kLargeOffered;
  of.ring_entries = std::bit_ceil(most);
  of.ring = reinterpret_cast<io_uring_buf_ring*>(map_anonymous(ring_bytes(of.ring_entries)));
  io_uring_buf_reg registration{};
  registration.ring_addr = reinterpret_cast<uintptr_t>(of.ring);
  registration.ring_entries = of.ring_entries;
  registration.bgid = of.group;
  if (io_uring_register_buf_ring(ring_.raw(), &registration, 0) != 0) {
    munmap(of.ring, ring_bytes(of.ring_entries));
    of.ring = nullptr;
    return false;
  }
  io_uring_buf_ring_init(of.ring);
  return true;
}

ReceivePool::~ReceivePool() {
  for (Class& of : classes_) {
    if (of.ring == nullptr) continue;
    io_uring_unregister_buf_ring(ring_.raw(), of.group);
    munmap(of.ring, ring_bytes(of.ring_entries));
  }
  munmap(memory_, mapped_);
}

Buffer* ReceivePool::claim(BufferSize size, uint32_t index, uint32_t bytes) {
  Class& of = at(size);
  VP_ASSERT(index < of.buffers.size() && bytes <= capacity(size) && of.offered > 0);
  --of.offered;
  Buffer& buffer = of.buffers[index];
  VP_ASSERT(buffer.references == 0);
  buffer.begin = of.before;
  buffer.end = of.before + bytes;
  buffer.references = 1;
  buffer.next = nullptr;
  return &buffer;
}

Buffer* ReceivePool::take(BufferSize size) {
  Class& of = at(size);
  if (of.free.empty()) return nullptr;
  Buffer& buffer = pop_free(of);
  VP_ASSERT(buffer.references == 0);
  buffer.begin = buffer.end = of.before;
  buffer.references = 1;
  buffer.next = nullptr;
  return &buffer;
}

void ReceivePool::release(Buffer* buffer) {
  VP_ASSERT(buffer->references > 0);
  if (--buffer->references == 0) at(buffer->size).free.push_back(buffer->index);
}

size_t ReceivePool::room_before(const Buffer* buffer, std::span<const std::byte> part) {
  // Besides the part's own, the queue holds a reference unless the part was the last.
  const uint32_t own = buffer->length() == 0 ? 1 : 2;
  return buffer->references == own ? static_cast<size_t>(part.data() - buffer->data) : 0;
}

void ReceivePool::replenish() {
  if (!provided_) return;
  for (Class& of : classes_) {
    const auto wanted =
        std::min<uint32_t>(of.ring_entries - of.offered, static_cast<uint32_t>(of.free.size()));
    if (wanted == 0) continue;
    const int mask = io_uring_buf_ring_mask(of.ring_entries);
    for (uint32_t i = 0; i < wanted; ++i) {
      Buffer& buffer = pop_free(of);
      io_uring_buf_ring_add(of.ring, buffer.data + of.before, capacity(of.size),
                            static_cast<unsigned short>(buffer.index), mask, static_cast<int>(i));
    }
    io_uring_buf_ring_advance(of.ring, static_cast<int>(wanted));
    of.offered += wanted;
  }
}

Buffer& ReceivePool::pop_free(Class& of) {
  Buffer& buffer = of.buffers[of.free.back()];
  of.free.pop_back();
  of.fewest_free = std::min(of.fewest_free, of.free.size());
  buffer.touched = true;
  return buffer;
}

bool ReceivePool::trim() {
  bool more = false;
  unsigned left = kTrimmedAtOnce;
  trims_on_ = false;
  for (Class& of : classes_) {
    // Buffers are reused from the top: what lies below the lowest mark was not needed, and is not
    // moved from one call to the next.
    for (; of.trimmed < of.fewest_free; ++of.trimmed) {
      Buffer& buffer = of.buffers[of.free[of.trimmed]];
      if (!buffer.touched) continue;
      if (left-- == 0) return trims_on_ = true;
      madvise(buffer.data, bytes_of(of.size), MADV_DONTNEED);
      buffer.touched = false;
    }
    for (size_t i = of.fewest_free; i < of.free.size(); ++i) {
      more = more || of.buffers[of.free[i]].touched;
    }
    of.trimmed = 0;
    of.fewest_free = of.free.size();
  }
  return more;
}

size_t ReceivePool::in_use() const {
  size_t count = 0;
  for (const Class& of : classes_) count += of.buffers.size() - of.free.size() - of.offered;
  return count;
}

}  // namespace virtproxy
