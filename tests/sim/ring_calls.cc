// What uring/io/io_uring_driver.cc and uring/io/enter.cc call of liburing, redirected here by the
// linker. The inline parts of liburing work on the queues of a KernelRing as they do on the kernel's.
#include <liburing.h>

#include <cstdlib>
#include <optional>

#include "core/time.h"
#include "tests/sim/process.h"
#include "uring/io/enter.h"

using virtproxy::Duration;
using virtproxy::sim::KernelRing;
using virtproxy::sim::Process;

namespace {

KernelRing& kernel_of(io_uring* ring) {
  KernelRing* found = Process::current()->ring_of(ring);
  if (found == nullptr) virtproxy::sim::World::current().fail("rings", "no such ring");
  return *found;
}

}  // namespace

extern "C" {

int __wrap_io_uring_queue_init_params(unsigned entries, io_uring* ring, io_uring_params* params) {
  Process::current()->open_ring(ring, entries, params->cq_entries);
  ring->features = params->features = IORING_FEAT_NO_IOWAIT;
  return 0;
}

void __wrap_io_uring_queue_exit(io_uring* ring) { Process::current()->close_ring(ring); }

io_uring_probe* __wrap_io_uring_get_probe_ring(io_uring*) {
  constexpr uint8_t kOperations = IORING_OP_SENDMSG_ZC + 1;
  auto* probe = static_cast<io_uring_probe*>(
      std::calloc(1, sizeof(io_uring_probe) + kOperations * sizeof(io_uring_probe_op)));
  probe->last_op = kOperations - 1;
  for (io_uring_probe_op* op = probe->ops; op != probe->ops + kOperations; ++op) {
    op->flags = IO_URING_OP_SUPPORTED;
  }
  return probe;
}

void __wrap_io_uring_free_probe(io_uring_probe* probe) { std::free(probe); }

int __wrap_io_uring_register_ring_fd(io_uring*) { return 1; }

int __wrap_io_uring_register_files_sparse(io_uring* ring, unsigned count) {
  return kernel_of(ring).register_files(count);
}

int __wrap_io_uring_register_files_update(io_uring* ring, unsigned at, int* files, unsigned) {
  return kernel_of(ring).update_file(at, *files);
}

int __wrap_io_uring_register_buf_ring(io_uring* ring, io_uring_buf_reg* registration, unsigned) {
  return kernel_of(ring).register_buffers(*registration);
}

int __wrap_io_uring_unregister_buf_ring(io_uring* ring, int group) {
  return kernel_of(ring).unregister_buffers(group);
}

int __wrap_io_uring_submit(io_uring* ring) { return kernel_of(ring).submit(); }

int __wrap_io_uring_submit_and_wait(io_uring* ring, unsigned) { return kernel_of(ring).wait(true); }

int __wrap_io_uring_enter(unsigned fd, unsigned count, unsigned, unsigned flags, sigset_t*) {
  KernelRing* kernel = Process::current()->ring_entered_by(static_cast<int>(fd));
  constexpr unsigned kFlags =
      IORING_ENTER_GETEVENTS | IORING_ENTER_NO_IOWAIT | IORING_ENTER_REGISTERED_RING;
  if (kernel == nullptr || flags != kFlags || count != kernel->queued()) {
    virtproxy::sim::World::current().fail("rings", "a call that the kernel would not understand");
  }
  return kernel->wait(true);
}

int __wrap_io_uring_submit_and_get_events(io_uring* ring) { return kernel_of(ring).wait(false); }

unsigned __wrap_io_uring_peek_batch_cqe(io_uring* ring, io_uring_cqe** entries, unsigned count) {
  return kernel_of(ring).peek(entries, count);
}

}  // extern "C"
