#include "uring/connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/assert.h"
#include "uring/channel.h"
#include "uring/sockets.h"

namespace virtproxy {
namespace {

// What one connection may hold of the channel's receive buffers: enough to keep the channel busy
// while the next piece is received, little enough that a thousand flat-out clients find their
// share.
constexpr uint32_t kMostOutboundBuffers = 4;

constexpr size_t kMostVectors = 64;

}  // namespace

Connection::Connection(Channel& channel, StreamKey stream, std::string_view service)
    : channel_(channel),
      stream_(stream),
      service_(service),
      receive_op_(this),
      hangup_op_(this),
      send_op_(this) {}

Connection::~Connection() {
  VP_ASSERT(idle());
  channel_.slices().clear(slices_);
  drop_outbound();
  if (file_.fd >= 0) close(file_.fd);
}

void Connection::adopt(int fd) {
  file_ = {fd, -1};
  sockaddr_storage local{};
  socklen_t size = sizeof local;
  getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size);
  is_unix_ = local.ss_family == AF_UNIX;
  prepare_connection(fd, local.ss_family);
  receive_more();
}

void Connection::dial(const Endpoint& endpoint, Duration timeout) {
  Dial::Client* const client = this;
  dial_ = std::make_unique<Dial>(channel_.loop(), channel_.resolution(), client);
  dial_->start(endpoint, timeout);
}

void Connection::dialed(int fd) {
  channel_.dial_ended();
  adopt(fd);
  channel_.want_flush(this);
}

void Connection::dial_failed(Fault fault, const std::string& reason) {
  channel_.dial_ended();
  channel_.dial_failed(service_, reason);
  fail(fault);
}

void Connection::dial_settled() { channel_.connection_settled(); }

bool Connection::idle() const {
  return !receive_op_.pending && !hangup_op_.pending && !send_op_.pending &&
         (!dial_ || dial_->idle());
}

// --- socket to channel ------------------------------------------------------------------------

void Connection::receive_more() {
  if (closing_ || file_.fd < 0 || input_ended_ || receive_op_.pending || waits_for_buffer) return;
  if (outbound_buffers_ >= kMostOutboundBuffers) return;
  const uint64_t credit = channel_.session().credit(stream_);
  if (credit == 0) return watch_for_hangup();

  ReceivePool& pool = channel_.pool();
  Ring& ring = channel_.loop().ring();
  const auto size =
      static_cast<size_t>(std::min<uint64_t>(credit, ReceivePool::capacity(receive_size_)));
  if (pool.provided()) {
    polling_ = false;
    ring.recv_provided(receive_op_, file_, pool.group(receive_size_), size, expect_wait_);
  } else {
    polling_ = true;
    ring.poll(receive_op_, file_, POLLIN | POLLRDHUP);
  }
}

void Connection::complete(Op& op, int result, uint32_t flags) {
  if (&op == &receive_op_) {
    polling_ ? on_readable(result) : on_received(result, flags);
  } else if (&op == &send_op_) {
    on_sent(result);
  } else {
    on_hangup(result);
  }
  if (closing_) channel_.connection_settled();
}

void Connection::on_received(int result, uint32_t flags) {
  ReceivePool& pool = channel_.pool();
  Buffer* buffer = nullptr;
  if ((flags & IORING_CQE_F_BUFFER) != 0) {
    buffer = pool.claim(receive_size_, flags >> IORING_CQE_BUFFER_SHIFT,
                        static_cast<uint32_t>(std::max(result, 0)));
  }
  if (closing_ || result <= 0) {
    if (buffer != nullptr) pool.release(buffer);
    if (closing_) return;
  }
  if (result > 0) {
    VP_ASSERT(buffer != nullptr);
    return queue(buffer);
  }
  switch (-result) {
    case 0:
      input_ended_ = true;
      channel_.session().end(stream_);
      channel_.want_write();
      return watch_for_hangup();
    case ENOBUFS:
      expect_wait_ = false;
      return channel_.wait_for_buffer(this);
    case EINTR:
    case EAGAIN:
      return receive_more();
    default:
      return fail(Fault::kAborted);
  }
}

// The path without provided buffers: bytes are there, so now a buffer is worth holding.
void Connection::on_readable(int result) {
  if (closing_) return;
  if (result < 0) return fail(Fault::kAborted);
  ReceivePool& pool = channel_.pool();
  Buffer* buffer = pool.take(receive_size_);
  if (buffer == nullptr) return channel_.wait_for_buffer(this);
  const uint64_t credit = channel_.session().credit(stream_);
  const auto size =
      static_cast<size_t>(std::min<uint64_t>(credit, ReceivePool::capacity(receive_size_)));
  const ssize_t got = recv(file_.fd, buffer->data, size, MSG_DONTWAIT);
  if (got > 0) {
    buffer->end = static_cast<uint32_t>(got);
    return queue(buffer);
  }
  const int error = errno;
  pool.release(buffer);
  // The result of a send that was told of a reset may be waiting behind this one.
  if (got == 0 && !is_unix_ && send_op_.pending && was_reset(file_.fd)) {
    return fail(Fault::kAborted);
  }
  on_received(got == 0 ? 0 : -error, 0);
}

void Connection::queue(Buffer* buffer) {
  const uint32_t bytes = buffer->length();
  // A full buffer means that more is there; a small piece of a large one that the rush is over.
  const uint32_t capacity = ReceivePool::capacity(buffer->size);
  expect_wait_ = bytes < capacity;
  if (bytes == capacity) {
    receive_size_ = BufferSize::kLarge;
  } else if (bytes <= ReceivePool::kSmallBytes / 2) {
    receive_size_ = BufferSize::kSmall;
  }
  (outbound_head_ == nullptr ? outbound_head_ : outbound_tail_->next) = buffer;
  outbound_tail_ = buffer;
  ++outbound_buffers_;
  channel_.session().queue(stream_, bytes);
  channel_.want_write();
  receive_more();
}

Connection::Part Connection::take(uint32_t bytes) {
  VP_ASSERT(outbound_head_ != nullptr);
  Buffer* buffer = outbound_head_;
  const uint32_t size = std::min(bytes, buffer->length());
  const Part part{{buffer->data + buffer->begin, size}, buffer};
  buffer->begin += size;
  if (buffer->length() > 0) {
    channel_.pool().add_reference(buffer);
    return part;
  }
  // The queue's reference passes to the caller.
  outbound_head_ = buffer->next;
  if (outbound_head_ == nullptr) outbound_tail_ = nullptr;
  --outbound_buffers_;
  return part;
}

void Connection::drop_outbound() {
  while (outbound_head_ != nullptr) {
    Buffer* next = outbound_head_->next;
    channel_.pool().release(outbound_head_);
    outbound_head_ = next;
  }
  outbound_tail_ = nullptr;
  outbound_buffers_ = 0;
}

// Without a receive in flight, a reset by the application would go unnoticed.
void Connection::watch_for_hangup() {
  if (hangup_op_.pending || hangup_seen_) return;
  channel_.loop().ring().watch(hangup_op_, file_);
}

void Connection::on_hangup(int result) {
  if (closing_ || result == -ECANCELED) return;
  hangup_seen_ = true;
  // Once all was said and heard on this side, leaving is no abort.
  if (input_ended_ && end_told_) return;
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(file_.fd, SOL_SOCKET, SO_ERROR, &error, &size);
  // Otherwise closed in an orderly way: what it left is still to be read once there is credit.
  if (error != 0 || (result > 0 && (result & POLLERR) != 0 && !is_unix_)) fail(Fault::kAborted);
}

// --- channel to socket ------------------------------------------------------------------------

void Connection::deliver(std::span<const std::byte> bytes, ReadSlab* slab) {
  VP_ASSERT(!closing_ && !peer_ended_);
  const bool rope_in_flight = send_op_.pending && !sending_slices_;
  if (file_.fd < 0 || rope_in_flight || !rope_.empty()) {
    rope_.append(bytes);
    return;
  }
  channel_.slices().push(slices_, bytes, slab);
  channel_.want_flush(this);
}

void Connection::peer_ended() {
  peer_ended_ = true;
  channel_.want_flush(this);
}

void Connection::flush() {
  if (closing_ || file_.fd < 0 || send_op_.pending) return;
  if (!rope_.empty()) {
    send_rope();
  } else if (!slices_.empty()) {
    send_slices();
  } else if (peer_ended_ && !end_told_) {
    end_sending();
  }
}

void Connection::send_slices() {
  SlicePool& pool = channel_.slices();
  Ring& ring = channel_.loop().ring();
  sending_slices_ = true;
  const Slice& first = pool.front(slices_);
  if (slices_.head == slices_.tail) {
    ring.send(send_op_, file_, first.bytes.data(), first.bytes.size(), MSG_DONTWAIT);
    return;
  }
  Arena& arena = channel_.loop().arena();
  auto* vectors = arena.allocate<iovec>(kMostVectors);
  size_t count = 0;
  pool.for_each(slices_, [&](const Slice& slice) {
    vectors[count++] = {const_cast<std::byte*>(slice.bytes.data()), slice.bytes.size()};
    return count < kMostVectors;
  });
  auto* message = arena.allocate<msghdr>(1);
  message->msg_iov = vectors;
  message->msg_iovlen = count;
  ring.sendmsg(send_op_, file_, message, MSG_DONTWAIT);
}

void Connection::send_rope() {
  sending_slices_ = false;
  const auto front = rope_.front();
  channel_.loop().ring().send(send_op_, file_, front.data(), front.size(), 0);
}

void Connection::on_sent(int result) {
  if (closing_) {
    channel_.slices().clear(slices_);
    rope_.clear();
    return;
  }
  const bool full = result == -EAGAIN || result == -EINTR || result == -ENOBUFS;
  if (result < 0 && !full) return fail(Fault::kAborted);
  size_t sent = full ? 0 : static_cast<size_t>(result);
  const size_t taken = sent;
  if (sending_slices_) {
    SlicePool& pool = channel_.slices();
    bool stuck = false;
    while (!slices_.empty() && !stuck) {
      Slice& slice = pool.front(slices_);
      const size_t size = std::min(sent, slice.bytes.size());
      slice.bytes = slice.bytes.subspan(size);
      sent -= size;
      stuck = !slice.bytes.empty();
      if (!stuck) pool.pop(slices_);
    }
    park_slices();
  } else {
    rope_.consume(taken);
  }
  if (taken > 0) {
    channel_.session().taken(stream_, taken);
    channel_.want_write();
  }
  if (!rope_.empty() || peer_ended_) channel_.want_flush(this);
}

void Connection::park_slices() {
  SlicePool& pool = channel_.slices();
  while (!slices_.empty()) {
    rope_.append(pool.front(slices_).bytes);
    pool.pop(slices_);
  }
}

void Connection::end_sending() {
  end_told_ = true;
  // ENOTCONN: the application has closed already; it cannot miss the end then.
  if (shutdown(file_.fd, SHUT_WR) != 0 && errno != ENOTCONN) return fail(Fault::kAborted);
  channel_.session().delivered(stream_, channel_.events());
  channel_.want_write();
}

// --- the end ----------------------------------------------------------------------------------

void Connection::fail(Fault fault) {
  channel_.session().reset(stream_, fault, channel_.events());
  channel_.want_write();
  abort();
}

void Connection::abort() {
  const int fd = std::exchange(file_.fd, -1);
  begin_closing();
  if (fd >= 0) close_with_reset(fd);
}

void Connection::finish() {
  VP_ASSERT(input_ended_ && end_told_);
  const int fd = std::exchange(file_.fd, -1);
  begin_closing();
  if (fd >= 0) close(fd);
}

void Connection::begin_closing() {
  VP_ASSERT(!closing_);
  closing_ = true;
  if (dialing()) {
    dial_->cancel();
    channel_.dial_ended();
  }
  Ring& ring = channel_.loop().ring();
  ring.cancel(receive_op_);
  ring.cancel(hangup_op_);
  ring.cancel(send_op_);
  if (!send_op_.pending) {
    channel_.slices().clear(slices_);
    rope_.clear();
  }
  drop_outbound();
  channel_.closing(this);
}

}  // namespace virtproxy
