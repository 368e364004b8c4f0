#include "uring/agent/link.h"

#include <poll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "uring/base/read_append.h"

namespace virtproxy::agent {

short Link::events() const {
  short events = 0;
  if (!conversation.pending().empty() || download) events |= POLLOUT;
  // While a request waits for its answer, the rest stays where it is: that is what slows the sender
  // down.
  if (input == Input::kOpen && unread.size() < read_size()) events |= POLLIN;
  return events;
}

bool Link::read_some() {
  if (input == Input::kEnded || unread.size() >= read_size()) return true;
  const ssize_t size = read_append(fd.get(), unread, read_size() - unread.size());
  if (size > 0) return true;
  if (size < 0) return errno == EAGAIN || errno == EINTR;
  if (port) return false;
  input = Input::kEnded;
  return true;
}

bool Link::peer_closed() const {
  pollfd look{fd.get(), 0, 0};
  return poll(&look, 1, 0) > 0 && (look.revents & (POLLHUP | POLLERR)) != 0;
}

bool Link::write_some(Instant now) {
  while (!conversation.pending().empty()) {
    const std::string_view bytes = conversation.pending();
    const ssize_t size = port && port->is_device()
                             ? write(fd.get(), bytes.data(), bytes.size())
                             : send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (size < 0) return errno == EAGAIN || errno == EINTR;
    // A virtio port without a reader takes nothing at times.
    if (size == 0) return true;
    conversation.sent(static_cast<size_t>(size), now);
  }
  if (!download) return true;
  // A turn sends so much, for the sake of the other connections: a reader on another processor, or
  // with a higher priority, may take all of a longer one while they wait.
  constexpr uint64_t kTurn = 256 * 1024;
  while (download->left > 0) {
    const ssize_t size =
        sendfile(fd.get(), download->fd.get(), nullptr, std::min(download->left, kTurn));
    if (size < 0) return errno == EAGAIN || errno == EINTR;
    if (size == 0) {
      // The file has become shorter. Its reader counts what comes.
      download->left = 0;
      break;
    }
    download->left -= static_cast<uint64_t>(size);
    download->sent += static_cast<uint64_t>(size);
    return true;
  }
  return true;
}

bool Link::parse(Instant now) {
  if (unread.empty() || upload || download || after == After::kClose) return false;
  const size_t taken =
      conversation.receive(std::as_bytes(std::span(unread.data(), unread.size())), now);
  unread.erase(0, taken);
  return taken > 0;
}

bool Link::finished() const {
  if (!conversation.pending().empty() || download) return false;
  if (after == After::kClose) return true;
  return input == Input::kEnded && !conversation.serving() && !upload && !subscribed;
}

}  // namespace virtproxy::agent
