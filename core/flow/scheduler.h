// Which stream's bytes go next: deficit round robin (Shreedhar and Varghese, 1996) among streams of
// one priority, so that streams share by bytes whatever the size of their pieces. A stream that was
// idle goes before those that have been sending all along (the "new flows" of FQ-CoDel, RFC 8290),
// so that a message does not wait for a round of bulk. It may do so for one quantum in the time
// that the others send a quantum each, however often it falls idle in between: going first is no
// larger share.
//
// Between priorities: in each batch a class may take three quarters of what is left while a lower
// one waits. So the interactive class goes first and the bulk class always moves.
#pragma once

#include <array>
#include <cstdint>

#include "core/flow/priority.h"
#include "core/index_list.h"

namespace virtproxy {

// What the scheduler knows of a stream.
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
  // `quantum`: bytes a stream sends before the next one's turn.
  explicit Scheduler(uint32_t quantum);

  // The stream has bytes to send. No-op when it is listed already.
  void add(Slab<Stream>& streams, uint32_t slot);
  void remove(Slab<Stream>& streams, uint32_t slot);

  bool empty() const;

  // Starts a batch of `bytes`.
  void begin(uint64_t bytes);

  struct Turn {
    uint32_t slot = IndexLink::kNone;
    uint32_t bytes = 0;  // the stream may send this many
  };
  // The next stream, or slot kNone when nothing is ready or the batch is full.
  Turn next(Slab<Stream>& streams);

  // The stream of the last turn sent `bytes` and `overhead`, which counts against the batch only;
  // `more` says whether it has bytes left.
  void sent(Slab<Stream>& streams, uint32_t slot, uint32_t bytes, uint32_t overhead, bool more);

 private:
  struct Class {
    IndexList<Stream, &Stream::ready_link> fresh;
    IndexList<Stream, &Stream::ready_link> round;
    uint64_t allowance = 0;
    uint64_t fresh_allowance = 0;
    uint64_t served = 0;  // bytes, ever
    uint32_t listed = 0;
    bool empty() const { return fresh.empty() && round.empty(); }
  };

  Class& class_of(const Stream& stream) { return classes_[static_cast<size_t>(stream.priority)]; }
  void list(Slab<Stream>& streams, uint32_t slot, bool fresh);
  void unlist(Slab<Stream>& streams, uint32_t slot);

  uint32_t quantum_;
  std::array<Class, kPriorities> classes_;
  uint64_t left_ = 0;
};

}  // namespace virtproxy
