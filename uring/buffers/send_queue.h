// What came for an application that does not take it now, in order: bytes that were copied out of
// the channel's read buffer, so that a slow reader pins its own window and nothing else, and pipes
// that bulk was spliced into without being read.
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
  // `total` is kept the sum of the sizes of all queues that share it, and outlives them.
  SendQueue(PipePool& pipes, uint64_t& total) : pipes_(pipes), total_(total) {}
  ~SendQueue() { clear(); }
  SendQueue(const SendQueue&) = delete;
  SendQueue& operator=(const SendQueue&) = delete;

  bool empty() const { return segments_.empty(); }
  size_t size() const;
  void clear();

  void append(std::span<const std::byte> bytes);
  // Moves up to `size` bytes from a non-blocking socket to its end. Bytes moved, 0 at the socket's
  // end, or a negative errno (-EAGAIN: nothing is there; -ENOBUFS: no pipe has room).
  ssize_t splice_from(int socket, size_t size);
  bool ends_in_pipe() const { return !segments_.empty() && segments_.back().pipe != nullptr; }

  bool begins_with_pipe() const { return !segments_.empty() && segments_.front().pipe != nullptr; }
  // The pipe that it begins with, to a non-blocking socket: bytes moved, or a negative errno.
  ssize_t splice_to(int socket);
  // Where the bytes that it begins with lie, up to the next pipe, and how many pieces that are.
  // They stay there until consume().
  size_t front(std::span<iovec> pieces) const;
  void consume(size_t bytes);

 private:
  struct Segment {
    Pipe* pipe;
    size_t copied;  // without a pipe: so many bytes of the rope
  };
  void pop() { segments_.erase(segments_.begin()); }

  PipePool& pipes_;
  uint64_t& total_;
  std::vector<Segment> segments_;
  ChunkQueue chunks_;
};

}  // namespace virtproxy
