// A doubly linked list through a member of its objects, in the order in which they were added.
// Nothing is allocated, and an object leaves in constant time. An object is on such a list at most
// once, and must leave it before it goes.
#pragma once

#include <cstddef>

#include "core/assert.h"

namespace virtproxy {

template <typename T>
struct ListLink {
  T* next = nullptr;
  T* previous = nullptr;
  bool linked = false;
};

template <typename T, ListLink<T> T::*Link>
class List {
 public:
  bool empty() const { return head_ == nullptr; }
  size_t size() const { return size_; }
  T* front() const { return head_; }

  void push_back(T* object) {
    ListLink<T>& link = object->*Link;
    VP_ASSERT(!link.linked);
    link = {nullptr, tail_, true};
    (tail_ == nullptr ? head_ : (tail_->*Link).next) = object;
    tail_ = object;
    ++size_;
  }

  void erase(T* object) {
    ListLink<T>& link = object->*Link;
    VP_ASSERT(link.linked && size_ > 0);
    (link.previous == nullptr ? head_ : (link.previous->*Link).next) = link.next;
    (link.next == nullptr ? tail_ : (link.next->*Link).previous) = link.previous;
    link = {};
    --size_;
  }

 private:
  T* head_ = nullptr;
  T* tail_ = nullptr;
  size_t size_ = 0;
};

}  // namespace virtproxy
