#include "uring/io/pipes.h"

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "core/assert.h"

namespace virtproxy {
namespace {

// 128 slots are room for a window; with 32 a single stream moved two thirds as much (measured). A
// pipe has 16 by itself.
constexpr uint64_t kMostSlots = 128;
constexpr uint64_t kLeastSlots = 16;
// The kernel's unit for the size of a pipe.
constexpr uint64_t kSlotBytes = 4096;

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

PipePool::PipePool(uint64_t memory) : memory_(memory), slots_(kMostSlots) {}

Pipe* PipePool::take() {
  Pipe* pipe = nullptr;
  if (!free_.empty()) {
    pipe = free_.back();
    free_.pop_back();
  } else {
    // Half of what is left: the last ones are smaller, so that there are several.
    const uint64_t half = std::bit_floor((memory_ - pinned_) / 2 / kPinnedBySlot);
    const uint64_t slots = std::clamp(half, kLeastSlots, slots_);
    const uint64_t pinned = slots * kPinnedBySlot;
    int ends[2];
    if (pipes_.size() >= kMost || pinned_ + pinned > memory_ ||
        pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) {
      return nullptr;
    }
    // Where the user's share of pipe memory (fs.pipe-user-pages-soft) is used up, it has fewer.
    fcntl(ends[1], F_SETPIPE_SZ, static_cast<int>(slots * kSlotBytes));
    pipe = pipes_.emplace_back(std::make_unique<Pipe>(ends[0], ends[1], pinned)).get();
    pinned_ += pinned;
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
  pinned_ -= pipe->pinned();
  std::erase_if(pipes_, [pipe](const auto& owned) { return owned.get() == pipe; });
}

}  // namespace virtproxy
