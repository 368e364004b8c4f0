// io_uring_enter(2) with a flag that liburing 2.3 does not know.
//
// IORING_ENTER_NO_IOWAIT: a thread asleep for its ring is not accounted as waiting for a disk.
#pragma once

#include <liburing.h>

#ifndef IORING_ENTER_NO_IOWAIT
#define IORING_ENTER_NO_IOWAIT (1U << 7)
#endif
#ifndef IORING_FEAT_NO_IOWAIT
#define IORING_FEAT_NO_IOWAIT (1U << 17)
#endif

namespace virtproxy {

// Once, before the first request. False where the kernel does not know the flag.
bool prepare_entering(io_uring& ring);

// What io_uring_submit_and_wait(ring, 1) does, with the flag. For rings without SQPOLL and IOPOLL.
int enter_without_iowait(io_uring& ring, bool registered_ring);

}  // namespace virtproxy
