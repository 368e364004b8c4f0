// A doubly linked list through a member of slab objects. An object is on such a list at most once;
// nothing is allocated.
#pragma once

#include <cstdint>

#include "core/assert.h"
#include "core/slab.h"

namespace virtproxy {

struct IndexLink {
  static constexpr uint32_t kNone = UINT32_MAX;
  uint32_t next = kNone;
  uint32_t previous = kNone;
  bool linked = false;
};

template <typename T, IndexLink T::*Link>
class IndexList {
 public:
  bool empty() const { return head_ == IndexLink::kNone; }
  uint32_t front() const { return head_; }

  void push_back(Slab<T>& slab, uint32_t slot) {
    IndexLink& link = slab.at(slot).*Link;
    VP_ASSERT(!link.linked);
    link = {IndexLink::kNone, tail_, true};
    if (tail_ == IndexLink::kNone) {
      head_ = slot;
    } else {
      (slab.at(tail_).*Link).next = slot;
    }
    tail_ = slot;
  }

  void erase(Slab<T>& slab, uint32_t slot) {
    IndexLink& link = slab.at(slot).*Link;
    VP_ASSERT(link.linked);
    if (link.previous == IndexLink::kNone) {
      VP_ASSERT(head_ == slot);
      head_ = link.next;
    } else {
      (slab.at(link.previous).*Link).next = link.next;
    }
    if (link.next == IndexLink::kNone) {
      VP_ASSERT(tail_ == slot);
      tail_ = link.previous;
    } else {
      (slab.at(link.next).*Link).previous = link.previous;
    }
    link = {};
  }

 private:
  uint32_t head_ = IndexLink::kNone;
  uint32_t tail_ = IndexLink::kNone;
};

}  // namespace virtproxy
