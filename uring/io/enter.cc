#include "uring/io/enter.h"

namespace virtproxy {

// liburing may fill the array of indices entry by entry when it submits, or never again after the
// set-up. It is the identity either way, so it is made that once.
bool prepare_entering(io_uring& ring) {
  if ((ring.features & IORING_FEAT_NO_IOWAIT) == 0) return false;
  for (unsigned i = 0; i < ring.sq.ring_entries; ++i) ring.sq.array[i] = i;
  return true;
}

int enter_without_iowait(io_uring& ring, bool registered_ring) {
  io_uring_sq& queue = ring.sq;
  queue.sqe_head = queue.sqe_tail;
  // The kernel reads the tail in the call below, on this thread.
  IO_URING_WRITE_ONCE(*queue.ktail, queue.sqe_tail);
  const unsigned count = queue.sqe_tail - IO_URING_READ_ONCE(*queue.khead);
  const unsigned flags = IORING_ENTER_GETEVENTS | IORING_ENTER_NO_IOWAIT |
                         (registered_ring ? IORING_ENTER_REGISTERED_RING : 0);
  return io_uring_enter(static_cast<unsigned>(ring.enter_ring_fd), count, 1, flags, nullptr);
}

}  // namespace virtproxy
