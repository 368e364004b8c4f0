// The numbers that one end gives to the streams it opens: a slot, reused once both ends are done
// with its last stream, and a generation that grows with every use, so that a frame for an earlier
// stream is never taken for one of the present.
//
// The opener allocates with take(); the other end follows with admit(). Both free with release().
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/fault.h"
#include "core/index_list.h"
#include "core/wire/frame.h"

namespace virtproxy {

class StreamIds {
 public:
  // A free number below `slots`, or nothing when all are in use.
  std::optional<uint32_t> take(uint32_t slots) {
    if (free_.empty()) {
      if (entries_.size() >= slots) return std::nullopt;
      entries_.push_back({});
      free_.push_back(static_cast<uint32_t>(entries_.size() - 1));
    }
    const uint32_t slot = free_.back();
    if (slot >= slots) return std::nullopt;
    free_.pop_back();
    Entry& entry = entries_[slot];
    entry.used = true;
    entry.generation = after(entry.generation);
    return stream_number(slot, entry.generation);
  }

  // The peer uses `number`, of at most `slots`.
  Fault admit(uint32_t number, uint32_t slots) {
    const uint32_t slot = slot_of(number);
    if (slot >= slots) return Fault::kBadStreamId;
    if (slot >= entries_.size()) entries_.resize(slot + 1);
    Entry& entry = entries_[slot];
    if (entry.used) return Fault::kStreamInUse;
    if (generation_of(number) != after(entry.generation) % kGenerations) return Fault::kBadStreamId;
    entry.used = true;
    entry.generation = after(entry.generation);
    return Fault::kNone;
  }

  // Binds a number in use to the stream in `local` of the session's slab.
  void bind(uint32_t number, uint32_t local) { entries_[slot_of(number)].local = local; }

  // Both ends are done with the stream. `reusable` at the end that gives the numbers out.
  void release(uint32_t number, bool reusable) {
    Entry& entry = entries_[slot_of(number)];
    entry.used = false;
    entry.local = IndexLink::kNone;
    if (reusable) free_.push_back(slot_of(number));
  }

  // The number was never sent to the peer: the next take() gives the same one.
  void put_back(uint32_t number) {
    release(number, true);
    --entries_[slot_of(number)].generation;
  }

  enum class Standing : uint8_t {
    kOpen,   // `local` is the stream
    kOver,   // the slot's last stream, done with, or the one before it
    kNever,  // never given out, out of range, or long gone
  };
  struct Found {
    Standing standing;
    uint32_t local;
  };
  Found find(uint32_t number) const {
    const uint32_t slot = slot_of(number);
    if (slot >= entries_.size()) return {Standing::kNever, IndexLink::kNone};
    const Entry& entry = entries_[slot];
    const uint32_t age = (entry.generation - generation_of(number)) % kGenerations;
    if (age > 1 || age >= entry.generation) return {Standing::kNever, IndexLink::kNone};
    if (age == 1 || !entry.used) return {Standing::kOver, IndexLink::kNone};
    return {Standing::kOpen, entry.local};
  }

  void clear() {
    entries_.clear();
    free_.clear();
  }

 private:
  struct Entry {
    uint32_t generation = 0;  // 0 until its first use
    uint32_t local = IndexLink::kNone;
    bool used = false;
  };
  static uint32_t after(uint32_t generation) {
    return generation + 1 < 2 * kGenerations ? generation + 1 : kGenerations;
  }

  std::vector<Entry> entries_;
  std::vector<uint32_t> free_;
};

}  // namespace virtproxy
