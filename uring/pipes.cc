#include "uring/pipes.h"

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/assert.h"

namespace virtproxy {
namespace {

// 128 slots, each of which refers to up to 32 KiB of a socket's buffer: room for a window. Where
// the user's share of pipe memory (fs.pipe-user-pages-soft) is used up, a pipe stays at 16 slots.
constexpr int kPipeBytes = 512 * 1024;

ssize_t move(int from, int to, size_t size) {
  const ssize_t moved = splice(from, nullptr, to, nullptr, size, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
  return moved < 0 ? -errno : moved;
}

}  // namespace

Pipe::~Pipe() {
  close(read_end_);
  close(write_end_);
}

ssize_t Pipe::fill(int socket, size_t size) {
  const ssize_t moved = move(socket, write_end_, size);
  if (moved > 0) held_ += static_cast<size_t>(moved);
  return moved;
}

ssize_t Pipe::drain(int socket, size_t size) {
  VP_ASSERT(size > 0 && size <= held_);
  const ssize_t moved = move(read_end_, socket, size);
  if (moved > 0) held_ -= static_cast<size_t>(moved);
  return moved;
}

ssize_t Pipe::pour(Pipe& to, size_t size) {
  VP_ASSERT(size > 0 && size <= held_);
  const ssize_t moved = move(read_end_, to.write_end_, size);
  if (moved > 0) {
    held_ -= static_cast<size_t>(moved);
    to.held_ += static_cast<size_t>(moved);
  }
  return moved;
}

ssize_t Pipe::write(std::span<const iovec> from) {
  const int count = static_cast<int>(std::min<size_t>(from.size(), IOV_MAX));
  const ssize_t written = writev(write_end_, from.data(), count);
  if (written < 0) return -errno;
  held_ += static_cast<size_t>(written);
  return written;
}

Pipe* PipePool::take() {
  Pipe* pipe = nullptr;
  if (!free_.empty()) {
    pipe = free_.back();
    free_.pop_back();
  } else {
    int ends[2];
    if (pipes_.size() >= most_ || pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return nullptr;
    fcntl(ends[1], F_SETPIPE_SZ, kPipeBytes);
    pipe = pipes_.emplace_back(std::make_unique<Pipe>(ends[0], ends[1])).get();
  }
  pipe->references_ = 1;
  return pipe;
}

void PipePool::release(Pipe* pipe) {
  VP_ASSERT(pipe->references_ > 0);
  if (--pipe->references_ > 0) return;
  if (pipe->held() > 0) return destroy(pipe);
  free_.push_back(pipe);
}

void PipePool::trim() {
  for (Pipe* pipe : free_) destroy(pipe);
  free_.clear();
}

void PipePool::destroy(Pipe* pipe) {
  std::erase_if(pipes_, [pipe](const auto& owned) { return owned.get() == pipe; });
}

}  // namespace virtproxy
