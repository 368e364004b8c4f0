// Lists of the parts of read buffers that are being sent to a socket. The nodes come from one pool
// for each channel, so a connection with nothing to send costs two words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/assert.h"
#include "uring/buffers/read_buffers.h"

namespace virtproxy {

struct Slice {
  std::span<const std::byte> bytes;
  ReadBuffer* buffer = nullptr;
  uint32_t next = UINT32_MAX;
};

class SlicePool;

struct SliceList {
  uint32_t head = UINT32_MAX;
  uint32_t tail = UINT32_MAX;
  bool empty() const { return head == UINT32_MAX; }
};

class SlicePool {
 public:
  void push(SliceList& list, std::span<const std::byte> bytes, ReadBuffer* buffer) {
    uint32_t index;
    if (free_ != UINT32_MAX) {
      index = free_;
      free_ = slices_[index].next;
    } else {
      index = static_cast<uint32_t>(slices_.size());
      slices_.emplace_back();
    }
    ReadBuffers::add_reference(buffer);
    slices_[index] = {bytes, buffer, UINT32_MAX};
    if (list.empty()) {
      list.head = index;
    } else {
      slices_[list.tail].next = index;
    }
    list.tail = index;
  }

  Slice& front(const SliceList& list) {
    VP_ASSERT(!list.empty());
    return slices_[list.head];
  }

  void pop(SliceList& list) {
    const uint32_t index = list.head;
    Slice& slice = slices_[index];
    ReadBuffers::release(slice.buffer);
    list.head = slice.next;
    if (list.empty()) list.tail = UINT32_MAX;
    slice = {{}, nullptr, free_};
    free_ = index;
  }

  void clear(SliceList& list) {
    while (!list.empty()) pop(list);
  }

  // Visits the list in order until `visit` returns false.
  template <typename Visit>
  void for_each(const SliceList& list, Visit&& visit) {
    for (uint32_t at = list.head; at != UINT32_MAX; at = slices_[at].next) {
      if (!visit(slices_[at])) return;
    }
  }

 private:
  std::vector<Slice> slices_;
  uint32_t free_ = UINT32_MAX;
};

}  // namespace virtproxy
