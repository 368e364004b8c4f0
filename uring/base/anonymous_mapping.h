// Memory straight from the system: reserved at once, resident only where it was touched.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>

namespace virtproxy {

// Throws std::bad_alloc. Give back with munmap().
inline std::byte* map_anonymous(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return static_cast<std::byte*>(memory);
}

}  // namespace virtproxy
