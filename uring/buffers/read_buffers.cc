#include "uring/buffers/read_buffers.h"

#include <sys/mman.h>

#include "uring/base/anonymous_mapping.h"

namespace virtproxy {

ReadSlabs::ReadSlabs(size_t count, size_t bytes)
    : bytes_(bytes), memory_(map_pages(count * bytes)) {
  slabs_.resize(count);
  for (size_t i = 0; i < count; ++i) slabs_[i].data = memory_ + i * bytes;
}

ReadSlabs::~ReadSlabs() { munmap(memory_, slabs_.size() * bytes_); }

ReadSlab* ReadSlabs::take() {
  for (ReadSlab& slab : slabs_) {
    if (slab.references == 0) {
      slab.references = 1;
      return &slab;
    }
  }
  return nullptr;
}

void ReadSlabs::trim() {
  for (const ReadSlab& slab : slabs_) {
    if (slab.references == 0) madvise(slab.data, bytes_, MADV_DONTNEED);
  }
}

}  // namespace virtproxy
