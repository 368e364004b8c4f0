// Bytes for an application whose socket does not take them now, in order. They were copied out of
// the channel's read buffer, so that a slow application holds no more than its own window, or
// spliced into pipes without being read.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "uring/buffers/chunk_queue.h"
#include "uring/io/pipes.h"

namespace virtproxy {

class SendQueue {
 public:
  // `total` is the sum of the sizes of all queues that share it, and outlives them.
  SendQueue(PipePool& pipes, uint64_t& total) : pipes_(pipes), total_(total) {}
  ~SendQueue() { clear(); }
  SendQueue(const SendQueue&) = delete;
  SendQueue& operator=(const SendQueue&) = delete;

  bool empty() const { return segments_.empty(); }
  size_t size() const;
  void clear();

  void append(std::span<const std::byte> bytes);
  // Moves up to `size` bytes from a non-blocking socket to the end of the queue. Returns bytes
  // moved, 0 at the end of the stream, or a negative errno (-EAGAIN: the socket has nothing;
  // -ENOBUFS: no pipe has room).
  ssize_t splice_from(int socket, size_t size);
  bool ends_in_pipe() const { return !segments_.empty() && segments_.back().pipe != nullptr; }

  bool begins_with_pipe() const { return !segments_.empty() && segments_.front().pipe != nullptr; }
  // Moves bytes of the first pipe to a non-blocking socket. Returns their number, or a negative
  // errno.
  ssize_t splice_to(int socket);
  // Points `pieces` to the first bytes, up to the next pipe, and returns the number of pieces. The
  // bytes stay there until consume().
  size_t front(std::span<iovec> pieces) const;
  void consume(size_t bytes);

 private:
  struct Segment {
    Pipe* pipe;
    size_t copied;  // without a pipe: so many bytes of chunks_
  };
  void pop() { segments_.erase(segments_.begin()); }

  PipePool& pipes_;
  uint64_t& total_;
  std::vector<Segment> segments_;
  ChunkQueue chunks_;
};

}  // namespace virtproxy
