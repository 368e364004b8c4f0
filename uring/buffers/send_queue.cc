#include "uring/buffers/send_queue.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>

#include "core/assert.h"

namespace virtproxy {
namespace {

// Of the channel's, so that one slow application leaves others theirs.
constexpr ptrdiff_t kMostPipes = 4;

bool has_bytes(int socket) {
  int bytes = 0;
  return ioctl(socket, FIONREAD, &bytes) == 0 && bytes > 0;
}

}  // namespace

size_t Backlog::size() const {
  size_t size = rope_.size();
  for (const Part& part : parts_) size += part.pipe != nullptr ? part.pipe->held() : 0;
  return size;
}

void Backlog::clear() {
  for (const Part& part : parts_) {
    if (part.pipe != nullptr) pipes_.release(part.pipe);
  }
  parts_.clear();
  rope_.clear();
}

void Backlog::append(std::span<const std::byte> bytes) {
  if (parts_.empty() || ends_in_pipe()) parts_.push_back({nullptr, 0});
  parts_.back().copied += bytes.size();
  rope_.append(bytes);
}

ssize_t Backlog::splice_from(int socket, size_t size) {
  if (ends_in_pipe()) {
    Pipe* last = parts_.back().pipe;
    ssize_t moved = last->fill(socket, size);
    // A full pipe says what an empty socket says; or the bytes have just come.
    if (moved != -EAGAIN || !has_bytes(socket)) return moved;
    moved = last->fill(socket, size);
    if (moved != -EAGAIN) return moved;
  }
  const auto is_pipe = [](const Part& part) { return part.pipe != nullptr; };
  if (std::count_if(parts_.begin(), parts_.end(), is_pipe) >= kMostPipes) return -ENOBUFS;
  Pipe* pipe = pipes_.take();
  if (pipe == nullptr) return -ENOBUFS;
  const ssize_t moved = pipe->fill(socket, size);
  if (moved > 0) {
    parts_.push_back({pipe, 0});
  } else {
    pipes_.release(pipe);
  }
  return moved;
}

ssize_t Backlog::splice_to(int socket) {
  VP_ASSERT(begins_with_pipe());
  Pipe* pipe = parts_.front().pipe;
  const ssize_t moved = pipe->drain(socket, pipe->held());
  if (pipe->held() == 0) {
    pipes_.release(pipe);
    pop();
  }
  return moved;
}

size_t Backlog::front(std::span<iovec> pieces) const {
  VP_ASSERT(!parts_.empty() && !begins_with_pipe());
  return rope_.front(pieces, parts_.front().copied);
}

void Backlog::consume(size_t bytes) {
  VP_ASSERT(bytes <= parts_.front().copied);
  rope_.consume(bytes);
  parts_.front().copied -= bytes;
  if (parts_.front().copied == 0) pop();
}

}  // namespace virtproxy
