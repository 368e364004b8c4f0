// Stream slots by the number that a peer chose for them: a hash table with open addressing, at most
// half full. The hash has a random key, so a peer cannot choose numbers that collide.
//
// Nothing is allocated per number, and clear() takes a few microseconds for thousands of them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/siphash.h"

namespace virtproxy {

class NumberTable {
 public:
  explicit NumberTable(const HashKey& key) : key_(key) {}

  bool empty() const { return size_ == 0; }
  size_t size() const { return size_; }
  bool contains(int32_t number) const { return find(number).has_value(); }

  std::optional<uint32_t> find(int32_t number) const {
    if (size_ == 0) return std::nullopt;
    const Entry& entry = entries_[place_of(number)];
    return entry.used() ? std::optional(entry.slot) : std::nullopt;
  }

  // `number` stands for `slot` from now on.
  void set(int32_t number, uint32_t slot) {
    if (2 * (size_ + 1) > entries_.size()) grow();
    Entry& entry = entries_[place_of(number)];
    if (!entry.used()) ++size_;
    entry = {number, slot};
  }

  void erase(int32_t number) {
    if (size_ == 0) return;
    size_t hole = place_of(number);
    if (!entries_[hole].used()) return;
    --size_;
    // The entries behind the hole move up as far as their hash allows, so that no search ends
    // early.
    for (size_t at = next(hole); entries_[at].used(); at = next(at)) {
      const size_t home = home_of(entries_[at].number);
      if (((at - home) & mask()) < ((at - hole) & mask())) continue;
      entries_[hole] = entries_[at];
      hole = at;
    }
    entries_[hole] = {};
  }

  void clear() {
    std::fill(entries_.begin(), entries_.end(), Entry{});
    size_ = 0;
  }

  // The most entries that a search for any of the numbers reads. For tests.
  size_t longest_search() const {
    size_t longest = 0;
    for (size_t at = 0; at < entries_.size(); ++at) {
      if (!entries_[at].used()) continue;
      longest = std::max(longest, ((at - home_of(entries_[at].number)) & mask()) + 1);
    }
    return longest;
  }

 private:
  static constexpr uint32_t kUnused = UINT32_MAX;
  struct Entry {
    int32_t number = 0;
    uint32_t slot = kUnused;
    bool used() const { return slot != kUnused; }
  };

  size_t mask() const { return entries_.size() - 1; }
  size_t next(size_t at) const { return (at + 1) & mask(); }
  size_t home_of(int32_t number) const {
    return siphash<1, 3>(key_, static_cast<uint32_t>(number)) & mask();
  }
  // The entry of `number`, or the free one where it belongs.
  size_t place_of(int32_t number) const {
    size_t at = home_of(number);
    while (entries_[at].used() && entries_[at].number != number) at = next(at);
    return at;
  }

  void grow() {
    constexpr size_t kLeast = 16;
    std::vector<Entry> old(std::max(kLeast, 2 * entries_.size()));
    old.swap(entries_);
    for (const Entry& entry : old) {
      if (entry.used()) entries_[place_of(entry.number)] = entry;
    }
  }

  HashKey key_;
  std::vector<Entry> entries_;  // a power of two of them
  size_t size_ = 0;
};

}  // namespace virtproxy
