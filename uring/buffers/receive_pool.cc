#include "uring/buffers/receive_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>

#include "core/assert.h"
#include "uring/base/anonymous_mapping.h"
#include "uring/base/log.h"

namespace virtproxy {
namespace {

// How many free buffers the driver is offered at once.
constexpr uint32_t kSmallOffered = 64;
constexpr uint32_t kLargeOffered = 16;
static_assert(std::has_single_bit(kSmallOffered) && std::has_single_bit(kLargeOffered));

// It takes the kernel some microseconds to free the pages of one.
constexpr unsigned kTrimmedAtOnce = 64;

// The kernel names a buffer by 16 bits.
constexpr size_t kMostBuffers = 65536;

}  // namespace

ReceivePool::ReceivePool(Driver& driver, size_t bytes, uint16_t first_group, bool room_for_frame)
    : driver_(driver) {
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
    of.most_offered = size == BufferSize::kSmall ? kSmallOffered : kLargeOffered;
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
  if (driver_.features().provided_buffers) {
    provided_ = std::all_of(classes_.begin(), classes_.end(), [this](const Class& of) {
      return driver_.open_group(of.group, of.most_offered);
    });
    if (!provided_) {
      log_warn("the kernel takes no provided buffers: receiving costs one more request each");
    }
  }
  replenish();
}

ReceivePool::~ReceivePool() {
  for (const Class& of : classes_) driver_.close_group(of.group);
  munmap(memory_, mapped_);
}

Buffer* ReceivePool::claim(BufferSize size, uint32_t index, uint32_t bytes) {
  Class& of = at(size);
  VP_ASSERT(index < of.buffers.size() && bytes <= capacity(size) && of.offered > 0);
  --of.offered;
  Buffer& buffer = of.buffers[index];
  VP_ASSERT(buffer.references == 0);
  buffer.first = buffer.begin = of.before;
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
  buffer.first = buffer.begin = buffer.end = of.before;
  buffer.references = 1;
  buffer.next = nullptr;
  return &buffer;
}

void ReceivePool::release(Buffer* buffer) {
  VP_ASSERT(buffer->references > 0);
  if (--buffer->references == 0) at(buffer->size).free.push_back(buffer->index);
}

size_t ReceivePool::room_before(const Buffer* buffer, std::span<const std::byte> part) {
  // The part has a reference of its own, and the queue one unless the part was the last.
  const uint32_t own = buffer->length() == 0 ? 1 : 2;
  return buffer->references == own ? static_cast<size_t>(part.data() - buffer->data) : 0;
}

void ReceivePool::replenish() {
  if (!provided_) return;
  for (Class& of : classes_) {
    const auto wanted =
        std::min<uint32_t>(of.most_offered - of.offered, static_cast<uint32_t>(of.free.size()));
    if (wanted == 0) continue;
    // Written before it is read.
    __attribute__((uninitialized)) std::array<OfferedBuffer, kSmallOffered> buffers;
    for (uint32_t i = 0; i < wanted; ++i) {
      const Buffer& buffer = pop_free(of);
      buffers[i] = {buffer.data + of.before, capacity(of.size),
                    static_cast<uint16_t>(buffer.index)};
    }
    driver_.offer(of.group, {buffers.data(), wanted});
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
    // Buffers are taken from the top of the list. The first `fewest_free` of it were not needed
    // since the last call, and keep their places until the next one.
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
