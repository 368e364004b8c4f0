// The buffers that a channel is read into. Bytes are parsed and sent to applications where they
// lie, and everything that points into a read buffer holds a reference to it. A send that does not
// finish at once copies its rest out (connection.h), so a few read buffers are always enough.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/assert.h"

namespace virtproxy {

struct ReadBuffer {
  std::byte* data = nullptr;
  uint32_t references = 0;
};

class ReadBuffers {
 public:
  // `bytes` is a multiple of the page size.
  ReadBuffers(size_t count, size_t bytes);
  ~ReadBuffers();
  ReadBuffers(const ReadBuffers&) = delete;
  ReadBuffers& operator=(const ReadBuffers&) = delete;

  // A free read buffer, with one reference; nullptr when there is none.
  ReadBuffer* take();
  // Returns the memory of read buffers that are not in use to the system.
  void trim();

  static void add_reference(ReadBuffer* buffer) { ++buffer->references; }
  static void release(ReadBuffer* buffer) {
    VP_ASSERT(buffer->references > 0);
    --buffer->references;
  }

 private:
  size_t bytes_;
  std::byte* memory_;
  std::vector<ReadBuffer> buffers_;
};

}  // namespace virtproxy
