#include "uring/service/connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/assert.h"
#include "uring/net/sockets.h"

namespace virtproxy {
namespace {

// Receive buffers of the channel that one connection may hold: enough to keep the channel busy
// while the next piece is received, and few enough that a thousand busy clients get their share.
constexpr uint32_t kMostOutboundBuffers = 4;

constexpr size_t kMostSegments = 64;

// Bulk begins after so many full large buffers in a row, and ends after so many small pieces.
constexpr unsigned kFullBuffersOfBulk = 4;
constexpr unsigned kSmallPiecesAfterBulk = 4;
constexpr uint64_t kMostStreamSpliced = 256 * 1024;

// Errors after which the call may be tried again.
bool is_passing(int error) {
  return error == EAGAIN || error == EINTR || error == ENOBUFS || error == ENOMEM;
}

}  // namespace

Connection::Connection(ConnectionContext& context, StreamHandle& stream, int fd, Address::Kind kind,
                       std::shared_ptr<size_t> clients)
    : context_(context),
      stream_(stream),
      file_{fd, -1},
      clients_(std::move(clients)),
      kind_(kind),
      receive_op_(this),
      outbound_(stream.buffers(), stream.pipes()),
      hangup_op_(this),
      send_op_(this),
      send_queue_(stream.pipes(), stream.held_bytes()) {}

Connection::Connection(ConnectionContext& context, StreamHandle& stream,
                       std::shared_ptr<const ForwardSpec> service)
    : context_(context),
      stream_(stream),
      service_(std::move(service)),
      kind_(service_->address.kind),
      receive_op_(this),
      outbound_(stream.buffers(), stream.pipes()),
      hangup_op_(this),
      send_op_(this),
      send_queue_(stream.pipes(), stream.held_bytes()) {}

Connection::~Connection() {
  VP_ASSERT(idle());
  if (clients_ && end_ != End::kGivenBack) --*clients_;
  stream_.slices().clear(slices_);
  if (file_.fd < 0) return;
  stream_.loop().driver().remove_file(file_);
  close(file_.fd);
}

void Connection::start() {
  if (service_ == nullptr) return adopt(file_.fd);
  Connector::Client* const client = this;
  connector_ = std::make_unique<Connector>(stream_.loop(), context_.resolver_driver, client);
  connector_->start(service_->address,
                    service_->connect_timeout.value_or(context_.connect_timeout));
  if (const int fd = connector_->take(); fd >= 0) connected(fd);
}

void Connection::adopt(int fd) {
  file_ = stream_.loop().driver().add_file(fd, FileUse::kStream);
  if (kind_ == Address::Kind::kTcp) prepare_tcp(fd);
  receive_more();
}

void Connection::connected(int fd) {
  if (is_over()) {
    file_ = {fd, -1};
    return;
  }
  stream_.accepted();
  adopt(fd);
  if (break_ == Break::kThere) deliver_rest_from_now();
  stream_.want_flush();
}

void Connection::connect_failed(Fault fault, const std::string& reason) {
  if (is_over()) return;
  stream_.refuse(fault, reason);
  abort(fault);
}

void Connection::connector_settled() { stream_.settled(); }

bool Connection::idle() const {
  return !receive_op_.pending && !hangup_op_.pending && !send_op_.pending &&
         (!connector_ || connector_->idle());
}

// --- socket to channel ------------------------------------------------------------------------

void Connection::set(Receive next) {
  VP_ASSERT((receive_ == Receive::kIdle) != (next == Receive::kIdle) && !input_ended());
  receive_ = next;
}

void Connection::set(Send next) {
  VP_ASSERT((send_ == Send::kIdle) != (next == Send::kIdle) && !is_shut());
  send_ = next;
}

void Connection::receive_more() {
  if (!may_receive() || outbound_.buffers() >= kMostOutboundBuffers) return;
  const uint64_t credit = request_credit();
  if (credit == 0) return;
  io_started_ = true;
  // The content of a pipe is taken before a buffer is filled behind it.
  if (receive_ == Receive::kSplicing) return;
  if (splices_ && splice_out(credit)) return;
  // Connections that wait for a buffer keep their order.
  if (stream_.buffers_are_short(receive_size_)) return wait_for_buffer();
  receive(credit);
}

void Connection::wait_for_buffer() {
  set(Receive::kWaiting);
  stream_.wait_for_buffer(receive_size_);
}

void Connection::buffer_came() {
  set(Receive::kIdle);
  if (!may_receive()) return;
  const uint64_t credit = request_credit();
  if (credit == 0) return;
  // Without provided buffers it was found readable, and a poll would let others take the buffer.
  stream_.buffers().provided() ? receive(credit) : on_readable(POLLIN);
}

// Bytes that may be received. Zero asks for may_queue().
uint64_t Connection::request_credit() {
  const uint64_t credit = stream_.request_credit();
  if (credit == 0) poll_hangup();
  return credit;
}

void Connection::receive(uint64_t credit) {
  ReceivePool& pool = stream_.buffers();
  Driver& driver = stream_.loop().driver();
  const auto size = static_cast<size_t>(std::min<uint64_t>(credit, pool.capacity(receive_size_)));
  if (pool.provided()) {
    set(Receive::kReceiving);
    driver.recv_provided(receive_op_, file_, pool.group(receive_size_), size, poll_first_);
  } else {
    set(Receive::kPolling);
    driver.poll(receive_op_, file_, POLLIN | POLLRDHUP);
  }
}

void Connection::complete(Op& op, Outcome outcome) {
  if (&op == &receive_op_) {
    const bool polled = receive_ == Receive::kPolling;
    set(Receive::kIdle);
    polled ? on_readable(outcome.result) : on_received(outcome);
  } else if (&op == &send_op_) {
    on_sent(outcome.result);
  } else {
    on_hangup(outcome);
  }
  if (stream_.has_ended()) stream_.settled();
}

void Connection::on_received(Outcome outcome) {
  const int result = outcome.result;
  ReceivePool& pool = stream_.buffers();
  Buffer* buffer = nullptr;
  if (outcome.buffer != Outcome::kNoBuffer) {
    buffer = pool.claim(receive_size_, static_cast<uint32_t>(outcome.buffer),
                        static_cast<uint32_t>(std::max(result, 0)));
  }
  const bool dropped = is_over() || !receives();
  if (dropped || result <= 0) {
    if (buffer != nullptr) pool.release(buffer);
    if (dropped) return;
  }
  if (result > 0) {
    VP_ASSERT(buffer != nullptr);
    return queue(buffer);
  }
  switch (-result) {
    case 0:
      return on_end();
    case ENOBUFS:
      poll_first_ = false;
      return wait_for_buffer();
    case EINTR:
    case EAGAIN:
      return receive_more();
    default:
      return break_off();
  }
}

void Connection::on_end() {
  // The send that found the error has reported it.
  if (break_ == Break::kHere) return break_off();
  // A send may have got the error of a reset, and its completion come behind this one. A splice
  // that had moved bytes before the error does not report it, and waits for room afterwards.
  if (kind_ == Address::Kind::kTcp && is_sending() && was_reset(file_.fd)) return break_off();
  set(Receive::kEnded);
  stream_.end();
  poll_hangup();
}

// The socket has bytes, so a pipe or a buffer can be filled at once.
void Connection::on_readable(int result) {
  if (is_over() || !receives()) return;
  if (result < 0) return break_off();
  if (splices_) {
    readable_ = true;
    return receive_more();
  }
  // The stream may have been closed since the poll began. A receive of 0 bytes would look like the
  // end.
  if (!may_receive()) return;
  const uint64_t credit = request_credit();
  if (credit == 0) return;
  ReceivePool& pool = stream_.buffers();
  Buffer* buffer = pool.take(receive_size_);
  if (buffer == nullptr) return wait_for_buffer();
  const auto size = static_cast<size_t>(std::min<uint64_t>(credit, pool.capacity(receive_size_)));
  const ssize_t got = recv(file_.fd, buffer->data + buffer->begin, size, MSG_DONTWAIT);
  if (got > 0) {
    buffer->end += static_cast<uint32_t>(got);
    return queue(buffer);
  }
  const int error = errno;
  pool.release(buffer);
  on_received({.result = got == 0 ? 0 : -error});
}

void Connection::queue(Buffer* buffer) {
  const uint32_t bytes = buffer->length();
  // A full buffer means that the socket has more. A small piece in a large buffer ends bulk.
  const uint32_t capacity = stream_.buffers().capacity(buffer->size);
  poll_first_ = bytes < capacity;
  const bool full = bytes == capacity && buffer->size == BufferSize::kLarge;
  full_in_row_ = full ? full_in_row_ + 1 : 0;
  if (full_in_row_ >= kFullBuffersOfBulk) splices_ = stream_.prepare_pipes();
  if (bytes == capacity) {
    receive_size_ = BufferSize::kLarge;
  } else if (bytes <= ReceivePool::kSmallBytes / 2) {
    receive_size_ = BufferSize::kSmall;
  }
  outbound_.push(buffer);
  stream_.queue(bytes);
  note_movement();
  receive_more();
}

// Receives into a pipe. False if the bytes are to be received into a buffer.
bool Connection::splice_out(uint64_t credit) {
  Pipe* pipe = stream_.pipes().take();
  if (pipe == nullptr) {
    // Without provided buffers the socket is polled first, and each poll would lead here again.
    readable_ = splices_ = false;
    full_in_row_ = 0;
    return false;
  }
  const ssize_t moved = pipe->fill(file_.fd, std::min(credit, kMostStreamSpliced));
  if (moved > 0) {
    readable_ = false;
    set(Receive::kSplicing);
    outbound_.push(pipe, static_cast<uint32_t>(moved));
    stream_.queue(static_cast<uint64_t>(moved));
    note_movement();
    // With little credit the amount does not depend on the application.
    const bool small = moved < kLeastSpliced && credit >= kLeastSpliced;
    small_in_row_ = small ? small_in_row_ + 1 : 0;
    if (small_in_row_ >= kSmallPiecesAfterBulk) {
      splices_ = false;
      full_in_row_ = 0;
    }
    return true;
  }
  stream_.pipes().release(pipe);
  const bool readable = std::exchange(readable_, false);
  if ((moved == -EAGAIN && !readable) || moved == -EINTR) {
    set(Receive::kPolling);
    stream_.loop().driver().poll(receive_op_, file_, POLLIN | POLLRDHUP);
    return true;
  }
  if (moved < 0 && moved != -EAGAIN && moved != -ENOBUFS && moved != -ENOMEM) {
    break_off();
    return true;
  }
  // A receive finds out which it is: the end, or bytes that cannot be spliced, such as urgent ones.
  splices_ = false;
  full_in_row_ = 0;
  return false;
}

// A stream does not survive the loss of its channel, so what was handed to that is not kept.
OutSegment Connection::take(uint32_t bytes) {
  const OutSegment segment = outbound_.take(bytes);
  outbound_.ack(outbound_.sent());
  if (receive_ == Receive::kSplicing && !outbound_.has_pipe()) set(Receive::kIdle);
  return segment;
}

void Connection::drop_outbound() {
  outbound_.clear();
  if (receive_ == Receive::kSplicing) set(Receive::kIdle);
}

// Without a pending receive, nothing else reports a reset by the application.
void Connection::poll_hangup() {
  if (hangup_op_.pending) return;
  stream_.loop().driver().poll_hangup(hangup_op_, file_);
}

void Connection::on_hangup(Outcome outcome) {
  const int result = outcome.result;
  if (is_over() || result == -ECANCELED) return;
  if (!sends()) return;
  // After both directions have ended in order, a hang-up does not mean a reset.
  if (input_ended() && is_shut()) return;
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(file_.fd, SOL_SOCKET, SO_ERROR, &error, &size);
  // Without an error it was closed in an orderly way. Its last bytes are read once there is credit.
  if (error != 0) return send_failed(error);
  if (result > 0 && (result & POLLERR) != 0 && kind_ != Address::Kind::kUnix) {
    return send_failed(ECONNRESET);
  }
  // The poll may have ended although a reset may come yet.
  if (result > 0 && !outcome.more) poll_hangup();
}

// --- channel to socket ------------------------------------------------------------------------

void Connection::deliver(std::span<const std::byte> bytes, ReadBuffer* buffer) {
  VP_ASSERT(!is_over() && !peer_ended_);
  if (!sends()) return;
  if (file_.fd < 0 || !send_queue_.empty()) return send_queue_.append(bytes);
  stream_.slices().push(slices_, bytes, buffer);
  stream_.want_flush();
}

void Connection::peer_ended() {
  peer_ended_ = true;
  stream_.want_flush();
}

void Connection::flush(bool may_skip_success) {
  if (is_over() || file_.fd < 0 || is_sending() || !sends()) return;
  if (!send_queue_.empty()) {
    send_queued();
  } else if (!slices_.empty()) {
    send_slices(may_skip_success);
  } else if (peer_ended_ && !is_shut()) {
    end_sending();
  } else if (break_ == Break::kThere) {
    deliver_rest();
  }
}

void Connection::send_slices(bool may_skip_success) {
  SlicePool& pool = stream_.slices();
  set(Send::kSlices);
  const Slice& first = pool.front(slices_);
  if (slices_.head == slices_.tail) {
    asked_ = first.bytes.size();
    stream_.loop().driver().send(send_op_, file_, first.bytes.data(), first.bytes.size(),
                                 SendMode::kNow);
    if (may_skip_success) skip_success(first.bytes.size());
    return;
  }
  auto* vectors = stream_.loop().arena().allocate<iovec>(kMostSegments);
  size_t count = 0;
  size_t bytes = 0;
  pool.for_each(slices_, [&](const Slice& slice) {
    bytes += slice.bytes.size();
    vectors[count++] = {const_cast<std::byte*>(slice.bytes.data()), slice.bytes.size()};
    return count < kMostSegments;
  });
  asked_ = bytes;
  send_vectors(vectors, count);
  if (may_skip_success && count < kMostSegments) skip_success(bytes);
}

// `vectors` come from the loop's arena, like the message.
void Connection::send_vectors(iovec* vectors, size_t count) {
  auto* message = stream_.loop().arena().allocate<msghdr>(1);
  message->msg_iov = vectors;
  message->msg_iovlen = count;
  stream_.loop().driver().sendmsg(send_op_, file_, message, SendMode::kNow);
}

// A send whose completion would lead to nothing need not wake the loop.
void Connection::skip_success(size_t bytes) {
  if (bytes > Driver::kMostSkipped || wants_more_turns() || !stream_.credit_unaffected_by(bytes))
    return;
  stream_.loop().driver().skip_success(send_op_);
}

// Sends without a request, because a splice follows these bytes.
void Connection::send_slices_now() {
  iovec vectors[kMostSegments];
  while (!slices_.empty()) {
    msghdr message{};
    message.msg_iov = vectors;
    stream_.slices().for_each(slices_, [&](const Slice& slice) {
      vectors[message.msg_iovlen++] = {const_cast<std::byte*>(slice.bytes.data()),
                                       slice.bytes.size()};
      return message.msg_iovlen < kMostSegments;
    });
    const ssize_t sent = sendmsg(file_.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (!is_passing(errno)) return send_failed(errno);
      park_slices();
      stream_.want_flush();
      return;
    }
    slices_sent(static_cast<size_t>(sent));
  }
}

bool Connection::begin_splice(uint32_t bytes) {
  if (is_over() || file_.fd < 0 || break_ != Break::kNone) return false;
  // Small pieces are copied, unless that would break up what a pipe holds.
  if (bytes < kLeastSpliced && !send_queue_.ends_in_pipe()) return false;
  if (!slices_.empty() && !is_sending()) send_slices_now();
  return slices_.empty() && break_ == Break::kNone;
}

ssize_t Connection::splice_from(int socket, uint32_t bytes) {
  VP_ASSERT(!is_over() && !peer_ended_ && slices_.empty());
  const ssize_t moved = send_queue_.splice_from(socket, bytes);
  if (moved <= 0) return moved;
  stream_.spliced(static_cast<uint32_t>(moved));
  // Sent once, at the end of the turn, because each write wakes the application.
  if (!is_sending()) stream_.want_flush();
  return moved;
}

void Connection::send_queued() {
  if (send_queue_.begins_with_pipe()) {
    const ssize_t sent = send_queue_.splice_to(file_.fd);
    if (sent < 0 && !is_passing(static_cast<int>(-sent))) {
      return send_failed(static_cast<int>(-sent));
    }
    if (sent > 0) consumed(static_cast<size_t>(sent));
    if (!send_queue_.begins_with_pipe()) {
      if (send_queue_.empty()) stream_.unstall();
      if (!send_queue_.empty() || wants_more_turns()) stream_.want_flush();
      return;
    }
    return await_room();
  }
  set(Send::kQueue);
  auto* vectors = stream_.loop().arena().allocate<iovec>(kMostSegments);
  const size_t count = send_queue_.front({vectors, kMostSegments});
  asked_ = 0;
  for (size_t i = 0; i < count; ++i) asked_ += vectors[i].iov_len;
  send_vectors(vectors, count);
}

// By a poll, because a send that waits for room cannot be cancelled in each case, see SendMode: the
// connection of an application that reads nothing would outlive its stream.
void Connection::await_room() {
  set(Send::kPolling);
  stream_.stall();
  stream_.loop().driver().poll(send_op_, file_, POLLOUT);
}

void Connection::on_sent(int result) {
  const Send sent_from = send_;
  set(Send::kIdle);
  if (is_over() || !sends()) return drop_inbound();
  const bool full = result == -EAGAIN || result == -EINTR || result == -ENOBUFS;
  if (result < 0 && !full) return send_failed(-result);
  const size_t sent = full ? 0 : static_cast<size_t>(result);
  switch (sent_from) {
    case Send::kSlices:
      slices_sent(sent);
      park_slices();
      break;
    case Send::kQueue:
      send_queue_.consume(sent);
      consumed(sent);
      break;
    default:
      return send_queued();
  }
  if (send_queue_.empty()) {
    stream_.unstall();
    if (wants_more_turns()) stream_.want_flush();
  } else if (sent < asked_ && sends()) {
    await_room();
  } else {
    stream_.want_flush();
  }
}

void Connection::consumed(size_t bytes) {
  if (bytes == 0) return;
  stream_.consumed(bytes);
  note_movement();
}

void Connection::slices_sent(size_t bytes) {
  consumed(bytes);
  SlicePool& pool = stream_.slices();
  while (!slices_.empty()) {
    Slice& slice = pool.front(slices_);
    const size_t size = std::min(bytes, slice.bytes.size());
    slice.bytes = slice.bytes.subspan(size);
    bytes -= size;
    if (!slice.bytes.empty()) return;
    pool.pop(slices_);
  }
}

void Connection::park_slices() {
  if (!slices_.empty()) stream_.stall();
  SlicePool& pool = stream_.slices();
  while (!slices_.empty()) {
    send_queue_.append(pool.front(slices_).bytes);
    pool.pop(slices_);
  }
}

void Connection::end_sending() {
  set(Send::kShut);
  // ENOTCONN: the application has closed already, and does not need the end.
  if (shutdown(file_.fd, SHUT_WR) != 0 && errno != ENOTCONN) return send_failed(errno);
  stream_.eof_delivered();
  if (break_ == Break::kThere) stream_.want_flush();
}

// --- the end ----------------------------------------------------------------------------------

void Connection::abort(Fault fault) { begin_closing(End::kReset, fault); }

bool Connection::give_back() {
  if (service_ != nullptr || io_started_ || break_ != Break::kNone) return false;
  begin_closing(End::kGivenBack, Fault::kUpgraded);
  return true;
}

void Connection::finish() {
  VP_ASSERT(is_shut());
  begin_closing(End::kClose, Fault::kNone);
}

// Gives up what costs no system call.
void Connection::begin_closing(End end, Fault fault) {
  end_ = end;
  break_state_.reset();
  if (!is_sending()) drop_inbound();
  drop_outbound();
  stream_.over(fault);
}

void Connection::let_go() {
  if (connecting()) connector_->cancel();
  Driver& driver = stream_.loop().driver();
  driver.cancel(receive_op_);
  driver.cancel(hangup_op_);
  driver.cancel(send_op_);
  driver.remove_file(file_);
  const int fd = std::exchange(file_.fd, -1);
  if (fd < 0 || end_ == End::kGivenBack) return;
  if (end_ == End::kReset) return context_.closer.close_with_reset(fd);
  if (kind_ == Address::Kind::kTcp) end_on_close(fd);
  input_ended() ? void(close(fd)) : context_.closer.close_lingering(fd);
}

}  // namespace virtproxy
