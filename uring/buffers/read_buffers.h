// The buffers a channel is read into. What arrives is parsed in place and sent on from here: a slab
// is counted while anything still points into it. Sends that do not finish at once copy their rest
// out (see connection.h), so that a few slabs are always enough.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/assert.h"

namespace virtproxy {

struct ReadSlab {
  std::byte* data = nullptr;
  uint32_t references = 0;
};

class ReadSlabs {
 public:
  // `bytes` is a multiple of the page size.
  ReadSlabs(size_t count, size_t bytes);
  ~ReadSlabs();
  ReadSlabs(const ReadSlabs&) = delete;
  ReadSlabs& operator=(const ReadSlabs&) = delete;

  // A slab nobody points into, with one reference; nullptr when there is none.
  ReadSlab* take();
  // Returns the memory of slabs that are not in use to the system.
  void trim();

  static void add_reference(ReadSlab* slab) { ++slab->references; }
  static void release(ReadSlab* slab) {
    VP_ASSERT(slab->references > 0);
    --slab->references;
  }

 private:
  size_t bytes_;
  std::byte* memory_;
  std::vector<ReadSlab> slabs_;
};

}  // namespace virtproxy
