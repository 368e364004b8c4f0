#include "uring/daemon/allocator.h"

#include <malloc.h>

#include <memory>

#ifdef VIRTPROXY_MIMALLOC
// Replaces operator new and delete; must be in exactly one translation unit of a program.
#include <mimalloc-new-delete.h>
#include <mimalloc.h>
#endif

namespace virtproxy {

std::string allocator_in_use() {
#ifdef VIRTPROXY_MIMALLOC
  const auto probe = std::make_unique<int>(0);
  if (mi_is_in_heap_region(probe.get())) {
    const int version = mi_version();
    return "mimalloc " + std::to_string(version / 100) + "." + std::to_string(version / 10 % 10) +
           "." + std::to_string(version % 10);
  }
#endif
  return "the C library's";
}

void prepare_allocator() {
#if !defined(VIRTPROXY_MIMALLOC) && defined(M_ARENA_MAX)
  // A worker's arena of its own would read /proc/sys/vm/overcommit_memory before it first shrinks, and would
  // keep what one thread has freed from the others.
  mallopt(M_ARENA_MAX, 1);
#endif
}

void release_free_memory() {
#ifdef VIRTPROXY_MIMALLOC
  mi_collect(true);
#else
  malloc_trim(0);
#endif
}

}  // namespace virtproxy
