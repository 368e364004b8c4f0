// A slab hands out slots that are guarded against reuse: a key is a slot and the generation it was
// given in, so that a key kept too long finds nothing instead of another object.
//
// Slots are reused last-in first-out, which keeps the working set small. Objects move when the slab
// grows beyond what reserve() foresaw: hold keys, not pointers, across an insert().
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/assert.h"

namespace virtproxy {

struct SlabKey {
  uint32_t slot = UINT32_MAX;
  uint32_t generation = 0;

  bool operator==(const SlabKey&) const = default;
  explicit operator bool() const { return slot != UINT32_MAX; }
};

template <typename T>
class Slab {
 public:
  // Generations count from `first`, so that two slabs can give out different keys.
  explicit Slab(uint32_t first) : first_(first), newest_(first) {}
  Slab() : Slab(1) {}

  // Makes room for so many objects, once: to move thousands of them takes milliseconds.
  void reserve(size_t most) { entries_.reserve(most); }

  SlabKey insert(T value) {
    if (free_.empty()) {
      entries_.push_back({std::move(value), first_, true});
      ++size_;
      return {static_cast<uint32_t>(entries_.size() - 1), first_};
    }
    const uint32_t slot = free_.back();
    free_.pop_back();
    Entry& entry = entries_[slot];
    entry.value = std::move(value);
    entry.used = true;
    ++size_;
    return {slot, entry.generation};
  }

  void erase(SlabKey key) {
    VP_ASSERT(find(key) != nullptr);
    Entry& entry = entries_[key.slot];
    entry.value = T();
    entry.used = false;
    newest_ = std::max(newest_, ++entry.generation);
    --size_;
    free_.push_back(key.slot);
  }

  // Erases all objects, in constant time. No key given out so far finds anything afterwards.
  void clear() {
    static_assert(std::is_trivially_destructible_v<T>);
    first_ = ++newest_;
    entries_.clear();
    free_.clear();
    size_ = 0;
  }

  // The object, or nullptr when the key has been erased since.
  T* find(SlabKey key) {
    if (key.slot >= entries_.size()) return nullptr;
    Entry& entry = entries_[key.slot];
    return entry.used && entry.generation == key.generation ? &entry.value : nullptr;
  }

  // For links between objects that are in the slab by construction.
  T& at(uint32_t slot) {
    VP_ASSERT(slot < entries_.size() && entries_[slot].used);
    return entries_[slot].value;
  }

  const T& at(uint32_t slot) const {
    VP_ASSERT(slot < entries_.size() && entries_[slot].used);
    return entries_[slot].value;
  }

  SlabKey key_at(uint32_t slot) const {
    VP_ASSERT(slot < entries_.size() && entries_[slot].used);
    return {slot, entries_[slot].generation};
  }

  template <typename Visit>
  void for_each(Visit&& visit) {
    for (uint32_t slot = 0; slot < entries_.size(); ++slot) {
      if (entries_[slot].used)
        visit(SlabKey{slot, entries_[slot].generation}, entries_[slot].value);
    }
  }

  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (uint32_t slot = 0; slot < entries_.size(); ++slot) {
      if (entries_[slot].used)
        visit(SlabKey{slot, entries_[slot].generation}, entries_[slot].value);
    }
  }

  size_t size() const { return size_; }

 private:
  struct Entry {
    T value;
    uint32_t generation;
    bool used;
  };
  uint32_t first_;   // generation of new slots
  uint32_t newest_;  // the highest generation of any slot so far
  std::vector<Entry> entries_;
  std::vector<uint32_t> free_;
  size_t size_ = 0;
};

}  // namespace virtproxy
