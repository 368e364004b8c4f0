// The buffers a channel is read into. What arrives is parsed in place and sent on from here: a slab
// is counted while anything still points into it. Sends that do not finish at once copy their rest
// out (see connection.h), so that a few slabs are always enough.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/assert.h"

namespace virtproxy {

struct ReadSlab {
  std::byte* data = nullptr;
  uint32_t references = 0;
};

class ReadSlabs {
 public:
  ReadSlabs(size_t count, size_t bytes) : bytes_(bytes), memory_(new std::byte[count * bytes]) {
    slabs_.resize(count);
    for (size_t i = 0; i < count; ++i) slabs_[i].data = memory_.get() + i * bytes;
  }

  size_t bytes() const { return bytes_; }

  // A slab nobody points into, with one reference; nullptr when there is none.
  ReadSlab* take() {
    for (ReadSlab& slab : slabs_) {
      if (slab.references == 0) {
        slab.references = 1;
        return &slab;
      }
    }
    return nullptr;
  }

  static void add_reference(ReadSlab* slab) { ++slab->references; }
  static void release(ReadSlab* slab) {
    VP_ASSERT(slab->references > 0);
    --slab->references;
  }

 private:
  size_t bytes_;
  std::unique_ptr<std::byte[]> memory_;
  std::vector<ReadSlab> slabs_;
};

}  // namespace virtproxy
