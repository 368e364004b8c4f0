// Chooses the stream whose bytes are sent next.
//
// Streams of one priority are served by deficit round robin (Shreedhar and Varghese, 1996), so they
// share by bytes whatever the size of their pieces. A stream that was idle is served before those
// that have been sending (the "new flows" of FQ-CoDel, RFC 8290), so a message does not wait for a
// round of bulk. It is for one quantum in the time in which the others send a quantum each, however
// often it falls idle in between: being first gives no larger share.
//
// In each batch a priority class may take three quarters of what is left while a lower one waits.
// So the interactive class is sent first and the bulk class always moves.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "core/assert.h"
#include "core/flow/priority.h"
#include "core/index_list.h"

namespace virtproxy {

// The scheduler's part of a stream.
struct Scheduled {
  Priority priority = Priority::kNormal;
  bool fresh = false;      // on the list of streams that were idle, not on the round
  bool scheduled = false;  // has had a quantum before
  int64_t deficit = 0;
  uint64_t renewed_at = 0;  // what its class had sent when its quantum was last renewed or used up
};

// `Stream` is a Scheduled that lives in a slab and has a `ready_link`.
template <typename Stream>
class Scheduler {
 public:
  // `quantum` is the number of bytes that a stream sends before the next one has its turn.
  explicit Scheduler(uint32_t quantum);

  // The stream has bytes to send. Does nothing if it is listed already.
  void add(Slab<Stream>& streams, uint32_t slot);
  void remove(Slab<Stream>& streams, uint32_t slot);

  bool empty() const { return listed_ == 0; }

  // Starts a batch of `bytes`.
  void begin(uint64_t bytes);

  struct Turn {
    uint32_t slot = IndexLink::kNone;
    uint32_t bytes = 0;  // the stream may send this many
  };
  // The next stream, or slot kNone when nothing is ready or the batch is full.
  Turn next(Slab<Stream>& streams);

  // The stream of the last turn sent `bytes` and `overhead`, which counts against the batch only;
  // `more`: it has bytes left.
  void sent(Slab<Stream>& streams, uint32_t slot, uint32_t bytes, uint32_t overhead, bool more);

 private:
  // What is left of a quantum is rounded up to this many bytes, since less is not worth a frame.
  // The deficit accounts for it.
  static constexpr uint32_t kLeastPiece = 1024;

  struct Class {
    IndexList<Stream, &Stream::ready_link> fresh;
    IndexList<Stream, &Stream::ready_link> round;
    uint64_t allowance = 0;
    uint64_t fresh_allowance = 0;
    uint64_t served = 0;  // bytes, ever
    uint32_t listed = 0;  // on either list
    bool empty() const { return listed == 0; }
  };

  Class& class_of(const Stream& stream) { return classes_[static_cast<size_t>(stream.priority)]; }
  void list(Slab<Stream>& streams, uint32_t slot, bool fresh);
  void unlist(Slab<Stream>& streams, uint32_t slot);

  uint32_t quantum_;
  std::array<Class, kPriorities> classes_;
  uint32_t listed_ = 0;  // in all classes
  uint64_t left_ = 0;
};

template <typename Stream>
Scheduler<Stream>::Scheduler(uint32_t quantum) : quantum_(std::max(quantum, kLeastPiece)) {}

template <typename Stream>
void Scheduler<Stream>::list(Slab<Stream>& streams, uint32_t slot, bool fresh) {
  Stream& stream = streams.at(slot);
  Class& of = class_of(stream);
  stream.fresh = fresh;
  (fresh ? of.fresh : of.round).push_back(streams, slot);
  ++of.listed;
  ++listed_;
}

template <typename Stream>
void Scheduler<Stream>::unlist(Slab<Stream>& streams, uint32_t slot) {
  Stream& stream = streams.at(slot);
  Class& of = class_of(stream);
  (stream.fresh ? of.fresh : of.round).erase(streams, slot);
  --of.listed;
  --listed_;
}

template <typename Stream>
void Scheduler<Stream>::add(Slab<Stream>& streams, uint32_t slot) {
  Stream& stream = streams.at(slot);
  if (stream.ready_link.linked) return;
  const Class& of = class_of(stream);
  const uint64_t round = uint64_t{of.listed} * quantum_;
  if (!stream.scheduled || of.served - stream.renewed_at >= round) {
    stream.scheduled = true;
    stream.deficit = quantum_;
    stream.renewed_at = of.served;
  }
  const bool fresh = stream.deficit > 0;
  if (!fresh) stream.deficit += quantum_;
  list(streams, slot, fresh);
}

template <typename Stream>
void Scheduler<Stream>::remove(Slab<Stream>& streams, uint32_t slot) {
  if (streams.at(slot).ready_link.linked) unlist(streams, slot);
}

template <typename Stream>
void Scheduler<Stream>::begin(uint64_t bytes) {
  left_ = bytes;
  uint64_t rest = bytes;
  uint32_t lower = listed_;
  for (Class& of : classes_) {
    lower -= of.listed;
    of.allowance = of.empty() ? 0 : lower > 0 ? rest - rest / 4 : rest;
    of.fresh_allowance = of.round.empty() ? of.allowance : of.allowance - of.allowance / 4;
    rest -= of.allowance;
  }
}

template <typename Stream>
typename Scheduler<Stream>::Turn Scheduler<Stream>::next(Slab<Stream>& streams) {
  if (left_ == 0) return {};
  for (Class& of : classes_) {
    if (of.empty() || of.allowance == 0) continue;
    const bool from_fresh = !of.fresh.empty() && (of.fresh_allowance > 0 || of.round.empty());
    const uint32_t slot = (from_fresh ? of.fresh : of.round).front();
    const int64_t deficit = streams.at(slot).deficit;
    VP_ASSERT(deficit > 0);
    // A stream that is alone in its class takes nothing from another.
    const uint64_t share = of.listed == 1
                               ? of.allowance
                               : std::max<uint64_t>(static_cast<uint64_t>(deficit), kLeastPiece);
    const uint64_t bytes = std::min({share, of.allowance, left_});
    return {slot, static_cast<uint32_t>(bytes)};
  }
  // A class with nothing left to send leaves its share to the classes that still wait.
  for (Class& of : classes_) {
    if (!of.empty()) {
      of.allowance = left_;
      of.fresh_allowance = left_;
      return next(streams);
    }
  }
  return {};
}

template <typename Stream>
void Scheduler<Stream>::sent(Slab<Stream>& streams, uint32_t slot, uint32_t bytes,
                             uint32_t overhead, bool more) {
  Stream& stream = streams.at(slot);
  Class& of = class_of(stream);
  left_ -= std::min<uint64_t>(left_, uint64_t{bytes} + overhead);
  of.allowance -= std::min<uint64_t>(of.allowance, bytes);
  if (stream.fresh) of.fresh_allowance -= std::min<uint64_t>(of.fresh_allowance, bytes);
  of.served += bytes;
  stream.deficit -= bytes;
  if (of.listed == 1) stream.deficit = std::max<int64_t>(stream.deficit, 0);
  const bool used_up = stream.deficit <= 0;
  if (used_up) stream.renewed_at = of.served;
  if (more && !used_up) return;
  unlist(streams, slot);
  if (!more) return;
  stream.deficit += quantum_;
  list(streams, slot, false);
}

}  // namespace virtproxy
