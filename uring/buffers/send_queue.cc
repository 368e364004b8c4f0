#include "uring/buffers/send_queue.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>

#include "core/assert.h"

namespace virtproxy {
namespace {

// Pipes of the channel's pool that one queue may hold, so that a slow application leaves some to
// others.
constexpr ptrdiff_t kMostPipes = 4;

bool has_bytes(int socket) {
  int bytes = 0;
  return ioctl(socket, FIONREAD, &bytes) == 0 && bytes > 0;
}

}  // namespace

size_t SendQueue::size() const {
  size_t size = chunks_.size();
  for (const Segment& segment : segments_)
    size += segment.pipe != nullptr ? segment.pipe->held() : 0;
  return size;
}

void SendQueue::clear() {
  total_ -= size();
  for (const Segment& segment : segments_) {
    if (segment.pipe != nullptr) pipes_.release(segment.pipe);
  }
  segments_.clear();
  chunks_.clear();
}

void SendQueue::append(std::span<const std::byte> bytes) {
  if (segments_.empty() || ends_in_pipe()) segments_.push_back({nullptr, 0});
  segments_.back().copied += bytes.size();
  chunks_.append(bytes);
  total_ += bytes.size();
}

ssize_t SendQueue::splice_from(int socket, size_t size) {
  if (ends_in_pipe()) {
    Pipe* last = segments_.back().pipe;
    ssize_t moved = last->fill(socket, size);
    // A full pipe and an empty socket give the same error. If there are bytes, the pipe was full,
    // or they have just arrived.
    const bool again = moved == -EAGAIN && has_bytes(socket);
    if (again) moved = last->fill(socket, size);
    if (moved > 0) total_ += static_cast<uint64_t>(moved);
    if (!again || moved != -EAGAIN) return moved;
  }
  const auto is_pipe = [](const Segment& segment) { return segment.pipe != nullptr; };
  if (std::count_if(segments_.begin(), segments_.end(), is_pipe) >= kMostPipes) return -ENOBUFS;
  Pipe* pipe = pipes_.take();
  if (pipe == nullptr) return -ENOBUFS;
  const ssize_t moved = pipe->fill(socket, size);
  if (moved > 0) {
    segments_.push_back({pipe, 0});
    total_ += static_cast<uint64_t>(moved);
  } else {
    pipes_.release(pipe);
  }
  return moved;
}

ssize_t SendQueue::splice_to(int socket) {
  VP_ASSERT(begins_with_pipe());
  Pipe* pipe = segments_.front().pipe;
  const ssize_t moved = pipe->drain(socket, pipe->held());
  if (moved > 0) total_ -= static_cast<uint64_t>(moved);
  if (pipe->held() == 0) {
    pipes_.release(pipe);
    pop();
  }
  return moved;
}

size_t SendQueue::front(std::span<iovec> pieces) const {
  VP_ASSERT(!segments_.empty() && !begins_with_pipe());
  return chunks_.front(pieces, segments_.front().copied);
}

void SendQueue::consume(size_t bytes) {
  VP_ASSERT(bytes <= segments_.front().copied);
  chunks_.consume(bytes);
  total_ -= bytes;
  segments_.front().copied -= bytes;
  if (segments_.front().copied == 0) pop();
}

}  // namespace virtproxy
