// Which numbers of a peer of version 1 may still be followed by data of a stream that it closed.
//
// Such a peer uses a number again as soon as its client or service is gone, and delivers what was
// in flight for that one to the next. A number is noted here when the peer closes its stream in the
// middle of our data. It is free again once the peer has read what was written until then.
//
// Where the driver can find out how much of what was written lies unread, it reports that with
// on_unread(). Elsewhere a number is assumed to be free after kAssumed.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "core/time.h"

namespace virtproxy {

class UnreadNumbers {
 public:
  static constexpr Duration kAssumed = std::chrono::milliseconds(100);

  void wrote(uint64_t bytes) { written_ += bytes; }
  // Bytes that the session has used up, the packet at hand included.
  void used(uint64_t bytes) {
    used_ += bytes;
    if (used_ > mark_.heard) read_ = std::max(read_, mark_.read);
  }
  // Of what was written at most `most` bytes lie unread, and `arrived` bytes of the peer's are
  // there which the session has not used. The peer may have sent those before it read ours.
  void on_unread(uint64_t most, uint64_t arrived) {
    told_ = true;
    const Mark mark{written_ - std::min(written_, most), used_ + arrived};
    if (used_ < mark_.heard) return;
    read_ = std::max(read_, mark_.read);
    mark_ = mark;
    if (arrived == 0) read_ = std::max(read_, mark.read);
  }

  void note(int32_t number, Instant now) {
    entries_[next_] = {number, written_, now + kAssumed};
    next_ = (next_ + 1) % entries_.size();
    count_ = std::min(count_ + 1, entries_.size());
  }
  // Whether there is any number that waits for on_unread().
  bool waiting() const {
    return std::any_of(entries_.begin(), entries_.begin() + count_,
                       [&](const Entry& entry) { return entry.number >= 0 && entry.end > read_; });
  }
  // True if the stream with this number may be given data of an earlier one. Asked once: the one
  // that has it now is closed behind these data.
  bool take(int32_t number, Instant now) {
    bool unread = false;
    for (size_t i = 0; i < count_; ++i) {
      Entry& entry = entries_[i];
      if (entry.number != number) continue;
      entry.number = -1;
      unread = unread || (told_ ? entry.end > read_ : entry.until > now);
    }
    return unread;
  }

 private:
  struct Entry {
    int32_t number;
    uint64_t end;   // written_ when the stream was closed
    Instant until;  // where the driver does not report it
  };
  // What is known to be read once `heard` bytes of the peer's were used.
  struct Mark {
    uint64_t read = 0;
    uint64_t heard = 0;
  };

  uint64_t written_ = 0;
  uint64_t used_ = 0;
  uint64_t read_ = 0;
  Mark mark_;
  bool told_ = false;
  std::array<Entry, 64> entries_{};
  size_t next_ = 0;
  size_t count_ = 0;
};

}  // namespace virtproxy
