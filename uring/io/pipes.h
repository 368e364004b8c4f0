// Pipes that bulk payload passes through without entering this process.
//
//   socket ── fill() ──▶ pipe ── drain() ──▶ socket
//
// splice(2) moves references to the kernel's own pages, so that large payloads are copied by the
// two applications and not between them. It is called directly, on sockets that do not block:
// through a ring it would run on a worker thread. Small payloads are cheaper to copy (see
// kLeastSpliced).
//
// A pipe is shared by counting, like a Buffer. It is taken when bytes are there and given back when
// it is empty; one that is given back with bytes in it, because its stream ended, is closed.
//
// A slot of a pipe refers to a part of a socket's buffer, of which the kernel allocates up to 32 KiB
// at once. All of that stays allocated while the slot is in use, however few bytes it refers to. So
// a pool counts a pipe as that much for each slot, and makes no more pipes than its memory allows.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace virtproxy {

// Payloads below this many bytes are copied: two more system calls cost more than copying 16 KiB
// does (measured).
inline constexpr uint32_t kLeastSpliced = 16 * 1024;

// What one slot of a pipe keeps allocated, at most, bytes.
inline constexpr uint64_t kPinnedBySlot = 32 * 1024;

class Pipe {
 public:
  Pipe(int read_end, int write_end, uint64_t pinned)
      : read_end_(read_end), write_end_(write_end), pinned_(pinned) {}
  ~Pipe();
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;

  size_t held() const { return held_; }
  // What it keeps allocated at most, bytes.
  uint64_t pinned() const { return pinned_; }

  // Moves up to `size` bytes from or to a non-blocking socket. Bytes moved, 0 at the end of the
  // stream, or a negative errno. -EAGAIN from fill(): the socket has nothing, or the pipe, if it
  // holds something already, is full.
  ssize_t fill(int socket, size_t size);
  ssize_t drain(int socket, size_t size);
  // The same from one pipe to another, and from memory.
  ssize_t pour(Pipe& to, size_t size);
  ssize_t write(std::span<const iovec> from);

 private:
  friend class PipePool;
  int read_end_;
  int write_end_;
  uint64_t pinned_;
  size_t held_ = 0;
  uint32_t references_ = 0;
};

class PipePool {
 public:
  // At most kMost pipes at once, two descriptors each, which keep at most `memory` bytes allocated.
  static constexpr uint64_t kMost = 32;
  explicit PipePool(uint64_t memory);

  // An empty pipe with one reference; nullptr when there is none, no memory or no descriptor for it.
  Pipe* take();
  static void add_reference(Pipe* pipe) { ++pipe->references_; }
  void release(Pipe* pipe);

  size_t in_use() const { return pipes_.size() - free_.size(); }
  // What all pipes keep allocated at most, bytes.
  uint64_t pinned() const { return pinned_; }
  // Closes the pipes that are not in use.
  void trim();

 private:
  void destroy(Pipe* pipe);

  const uint64_t memory_;
  const uint64_t slots_;  // of one pipe
  uint64_t pinned_ = 0;
  std::vector<std::unique_ptr<Pipe>> pipes_;
  std::vector<Pipe*> free_;
};

}  // namespace virtproxy
