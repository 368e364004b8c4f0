#include "uring/buffers/read_buffers.h"

#include <sys/mman.h>

#include "uring/base/anonymous_mapping.h"

namespace virtproxy {

ReadBuffers::ReadBuffers(size_t count, size_t bytes)
    : bytes_(bytes), memory_(map_anonymous(count * bytes)) {
  buffers_.resize(count);
  for (size_t i = 0; i < count; ++i) buffers_[i].data = memory_ + i * bytes;
}

ReadBuffers::~ReadBuffers() { munmap(memory_, buffers_.size() * bytes_); }

ReadBuffer* ReadBuffers::take() {
  for (ReadBuffer& buffer : buffers_) {
    if (buffer.references == 0) {
      buffer.references = 1;
      return &buffer;
    }
  }
  return nullptr;
}

void ReadBuffers::trim() {
  for (const ReadBuffer& buffer : buffers_) {
    if (buffer.references == 0) madvise(buffer.data, bytes_, MADV_DONTNEED);
  }
}

}  // namespace virtproxy
