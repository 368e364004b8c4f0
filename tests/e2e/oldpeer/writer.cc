#include "writer.h"

#include <unistd.h>

#include <cerrno>

#include "net.h"

namespace oldpeer {

void Writer::Adopt(int fd) const {
  if (queues_) SetNonblocking(fd, true);
}

bool Writer::Write(int fd, const void* data, size_t size) {
  if (!queues_) return WriteAll(fd, data, size);
  const auto found = waiting_.find(fd);
  if (found != waiting_.end()) {
    if (!found->second.closing) found->second.bytes.append(static_cast<const char*>(data), size);
    return true;
  }
  const auto* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t count = write(fd, at, size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) {
      waiting_[fd].bytes.assign(at, size);
      return true;
    }
    if (count < 0) return false;
    at += count;
    size -= static_cast<size_t>(count);
  }
  return true;
}

void Writer::Close(int fd) {
  const auto found = waiting_.find(fd);
  if (found == waiting_.end()) {
    close(fd);
  } else {
    found->second.closing = true;
  }
}

void Writer::CloseNow(int fd) {
  waiting_.erase(fd);
  close(fd);
}

size_t Writer::Queued(int fd) const {
  const auto found = waiting_.find(fd);
  return found == waiting_.end() ? 0 : found->second.bytes.size() - found->second.written;
}

void Writer::AddTo(std::vector<pollfd>* poll_set) const {
  for (const auto& [fd, queue] : waiting_) poll_set->push_back({fd, POLLOUT, 0});
}

void Writer::Flush(int fd) {
  const auto found = waiting_.find(fd);
  if (found == waiting_.end()) return;
  Queue& queue = found->second;
  const ssize_t count =
      write(fd, queue.bytes.data() + queue.written, queue.bytes.size() - queue.written);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  const bool broken = count < 0;
  if (!broken) queue.written += static_cast<size_t>(count);
  if (!broken && queue.written < queue.bytes.size()) return;
  if (queue.closing) close(fd);
  waiting_.erase(found);
}

}  // namespace oldpeer
