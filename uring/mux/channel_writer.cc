#include "uring/mux/channel_writer.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/assert.h"
#include "core/wire/little_endian.h"
#include "core/wire/v1_packet.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;

constexpr size_t kMostVectors = 1024;  // UIO_MAXIOV: one more is EMSGSIZE
constexpr Duration kFullInterval = milliseconds(20);
// Doubles while the peer reads nothing.
constexpr Duration kUnreadInterval = milliseconds(1);
constexpr Duration kMostUnreadInterval = milliseconds(256);

// Either the reader or the writer notices first that the connection is closed. Both give the same
// reason.
std::string write_failure(int error) {
  return error == EPIPE ? "closed by the other end" : std::strerror(error);
}

}  // namespace

ChannelWriter::ChannelWriter(Loop& loop, ProtocolSelector& selector, ReceivePool& pool,
                             PipePool& pipes, Client* client)
    : loop_(loop),
      selector_(selector),
      pool_(pool),
      pipes_(pipes),
      client_(client),
      op_(this),
      retry_(loop.timers(), this),
      unread_(loop.timers(), this) {
  vectors_.reserve(kMostVectors);
}

void ChannelWriter::attach(File file, const TransportTraits& traits) {
  VP_ASSERT(state_ == State::kDetached && idle());
  file_ = file;
  traits_ = &traits;
  state_ = State::kIdle;
  skips_success_ = rechecked_ = false;
  room_.attach(file.fd, traits);
}

void ChannelWriter::detach() {
  state_ = State::kDetached;
  retry_.clear();
  unread_.clear();
  loop_.driver().cancel(op_);
  if (!op_.pending) let_go();
}

void ChannelWriter::let_go() {
  release_buffers();
  if (assembly_ != nullptr) pipes_.release(std::exchange(assembly_, nullptr));
}

void ChannelWriter::trim() {
  if (op_.pending || assembly_ == nullptr || assembly_->held() > 0) return;
  pipes_.release(std::exchange(assembly_, nullptr));
}

bool ChannelWriter::prepare_pipes() {
  if (assembly_ == nullptr && state_ != State::kDetached) assembly_ = pipes_.take();
  return assembly_ != nullptr;
}

uint64_t ChannelWriter::batch_limit() const {
  if (!traits_->is_socket || !selector_.up()) return traits_->max_batch;
  if (selector_.protocol() == 1) return room_.most_batch();
  return std::min(traits_->max_batch, selector_.session().most_batch());
}

void ChannelWriter::write_on(Events& events, bool may_skip_success) {
  if (state_ != State::kIdle) return;
  watch_unread();
  if (!selector_.wants_to_write(loop_.now()) || !has_room()) return;
  const Batch& batch = selector_.plan(batch_limit(), loop_.now(), events);
  if (batch.empty()) return;
  skips_success_ = may_skip_success && batch.frames.size() == 1 &&
                   batch.size <= Driver::kMostSkipped && traits_->is_socket &&
                   !selector_.wants_to_write(loop_.now());
  lay_out(batch);
  skips_success_ = skips_success_ && vectors_.size() == 1 && pipe_segments_.empty();
  submit();
}

// False if a batch is not planned before the socket has room.
bool ChannelWriter::has_room() {
  const bool packets = !selector_.up() || selector_.protocol() == 1;
  room_.speak_packets(packets, selector_.up());
  if (!room_.knows_unread()) return true;
  if (room_.has_room()) {
    Session& session = selector_.session();
    if (session.waits_for_unread()) session.on_unread(room_.most_unread(), room_.arrived());
    return true;
  }
  poll_for_room(State::kAwaitingRoom);
  return false;
}

void ChannelWriter::watch_unread() {
  if (!room_.knows_unread() || !selector_.up() || !selector_.session().waits_for_unread()) {
    unread_interval_ = kUnreadInterval;
    return;
  }
  if (room_.is_drained()) return selector_.session().on_unread(0, room_.arrived());
  if (unread_.armed()) return;
  unread_.set(loop_.now() + unread_interval_);
  unread_interval_ = std::min(2 * unread_interval_, kMostUnreadInterval);
}

void ChannelWriter::lay_out(const Batch& batch) {
  vectors_.clear();
  pipe_segments_.clear();
  pipe_segment_at_ = vector_at_ = 0;
  staged_ = 0;
  if (staging_.size() < batch.size) staging_.resize(batch.size);
  for (const PlannedFrame& planned : batch.frames) {
    if (planned.payload == 0) {
      copy(batch.head(planned));
      continue;
    }
    Endpoint& endpoint = client_->endpoint_sending(planned.stream, planned.payload);
    lay_out(planned, batch.head(planned), endpoint);
    laid_out_.push_back(&endpoint);
  }
  for (Endpoint* endpoint : laid_out_) endpoint->may_queue();
  laid_out_.clear();
}

void ChannelWriter::lay_out(const PlannedFrame& planned, std::span<const std::byte> head,
                            Endpoint& endpoint) {
  const bool trailer_covers_payload =
      planned.has_trailer && selector_.session().trailer_covers_payload();
  const size_t copy_below = trailer_covers_payload ? SIZE_MAX : traits_->copy_below;
  const size_t staged_at = staged_;
  std::byte* behind = nullptr;
  for (uint32_t left = planned.payload; left > 0;) {
    OutSegment segment = endpoint.take(left);
    const bool first = left == planned.payload;
    const bool refer = may_refer_to(segment, copy_below);
    left -= segment.size();
    const bool in_buffer = refer && segment.buffer != nullptr;
    if (first && !(in_buffer && put_before(segment, head))) copy(head);
    if (segment.pipe != nullptr) {
      VP_ASSERT(!trailer_covers_payload);
      pipe_segments_.push_back({vectors_.size(), segment.pipe, segment.piped});
    } else if (in_buffer) {
      behind = pool_.room_behind(segment.buffer) < kTrailerSize
                   ? nullptr
                   : segment.buffer->data + segment.buffer->end;
      buffers_.push_back(segment.buffer);
      add_vector(segment.bytes.data(), segment.bytes.size());
    } else if (refer) {
      behind = nullptr;
      if (owners_.empty() || owners_.back() != segment.owner) {
        owners_.push_back(std::move(segment.owner));
      }
      add_vector(segment.bytes.data(), segment.bytes.size());
    } else {
      behind = nullptr;
      copy(segment.bytes);
      if (segment.buffer != nullptr) pool_.release(segment.buffer);
    }
  }
  if (!planned.has_trailer) return;
  const auto frame = trailer_covers_payload
                         ? std::span<const std::byte>(staging_).subspan(
                               staged_at + head.size() - kHeaderSize, kHeaderSize + planned.payload)
                         : head.last(kHeaderSize);
  std::byte trailer[kTrailerSize];
  store_le(trailer, selector_.session().trailer_for(frame));
  if (behind == nullptr) return copy(trailer);
  std::memcpy(behind, trailer, kTrailerSize);
  add_vector(behind, kTrailerSize);
}

// Whether a vector is to refer to the bytes where they lie. Packets are one vector, and only a
// buffer has room beside it for what goes around the payload.
bool ChannelWriter::may_refer_to(const OutSegment& segment, size_t copy_below) const {
  const bool lasts = segment.buffer != nullptr || (segment.owner != nullptr && !room_.packets());
  return lasts && segment.bytes.size() >= copy_below && vectors_.size() + 4 < kMostVectors;
}

// False where there is no room.
bool ChannelWriter::put_before(const OutSegment& segment, std::span<const std::byte> head) {
  if (ReceivePool::room_before(segment.buffer, segment.bytes) < head.size()) return false;
  std::byte* to =
      segment.buffer->data + (segment.bytes.data() - segment.buffer->data) - head.size();
  std::memcpy(to, head.data(), head.size());
  add_vector(to, head.size());
  return true;
}

void ChannelWriter::copy(std::span<const std::byte> bytes) {
  VP_ASSERT(bytes.size() <= staging_.size() - staged_);
  std::byte* to = staging_.data() + staged_;
  std::memcpy(to, bytes.data(), bytes.size());
  staged_ += bytes.size();
  add_vector(to, bytes.size());
}

void ChannelWriter::add_vector(const std::byte* data, size_t size) {
  if (vectors_.size() > (pipe_segments_.empty() ? 0 : pipe_segments_.back().vectors)) {
    iovec& last = vectors_.back();
    if (static_cast<const std::byte*>(last.iov_base) + last.iov_len == data) {
      last.iov_len += size;
      return;
    }
  }
  vectors_.push_back({const_cast<std::byte*>(data), size});
}

void ChannelWriter::poll_for_room(State state) {
  state_ = state;
  loop_.driver().poll(op_, file_, POLLOUT);
}

// Writes what is left of the batch. `polled`: the transport was found writable just now.
void ChannelWriter::submit(bool polled) {
  Driver& driver = loop_.driver();
  state_ = State::kWriting;
  if (room_.packets()) {
    write_packets(polled);
  } else if (!pipe_segments_.empty()) {
    push();
  } else if (traits_->write_portion > 0 && write_port()) {
    batch_left();
  } else if (!traits_->is_socket) {
    const auto next = next_write();
    driver.write(op_, file_, next.data(), next.size());
  } else if (vectors_.size() == 1) {
    driver.send(op_, file_, vectors_[0].iov_base, vectors_[0].iov_len, SendMode::kAll);
    if (skips_success_) driver.skip_success(op_);
  } else {
    message_.msg_iov = vectors_.data();
    message_.msg_iovlen = vectors_.size();
    driver.sendmsg(op_, file_, &message_, SendMode::kAll);
  }
}

void ChannelWriter::write_packets(bool polled) {
  VP_ASSERT(vectors_.size() == 1 && pipe_segments_.empty());
  iovec& vector = vectors_.front();
  while (vector.iov_len > 0) {
    const size_t size = room_.next(vector.iov_len, std::exchange(polled, false));
    if (size == 0) return poll_for_room(State::kPolling);
    if (traits_->is_socket && size == vector.iov_len) {
      loop_.driver().send(op_, file_, vector.iov_base, size, SendMode::kAll);
      if (skips_success_) loop_.driver().skip_success(op_);
      return;
    }
    const ssize_t written = write_now({static_cast<const std::byte*>(vector.iov_base), size});
    if (written > 0) {
      advance(static_cast<size_t>(written));
    } else if (written == 0 || errno == EAGAIN) {
      return wait_for_room();
    } else if (errno != EINTR) {
      return client_->channel_failed(write_failure(errno));
    }
  }
  batch_left();
}

ssize_t ChannelWriter::write_now(std::span<const std::byte> bytes) {
  if (!traits_->is_socket) return ::write(file_.fd, bytes.data(), bytes.size());
  iovec vector{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  return sendmsg(file_.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

// A port whose other side is closed polls as hung up all the time, so it is tried again after a
// while.
void ChannelWriter::wait_for_room() {
  if (!traits_->has_presence) return poll_for_room(State::kPolling);
  state_ = State::kPausing;
  retry_.set(loop_.now() + kFullInterval);
}

// Writes to a port while it takes bytes. False if some are left: a request is made for them, which
// gets the result that stopped this.
bool ChannelWriter::write_port() {
  while (vector_at_ < vectors_.size()) {
    const auto next = next_write();
    const ssize_t written = ::write(file_.fd, next.data(), next.size());
    if (written <= 0) return false;
    advance(static_cast<size_t>(written));
  }
  return true;
}

std::span<const std::byte> ChannelWriter::next_write() const {
  const iovec& vector = vectors_[vector_at_];
  return {static_cast<const std::byte*>(vector.iov_base),
          std::min(vector.iov_len, traits_->write_portion > 0 ? traits_->write_portion : SIZE_MAX)};
}

// `bytes` of the vectors were written.
void ChannelWriter::advance(size_t bytes) {
  while (bytes > 0) {
    iovec& vector = vectors_[vector_at_];
    const size_t size = std::min(bytes, vector.iov_len);
    vector.iov_base = static_cast<std::byte*>(vector.iov_base) + size;
    vector.iov_len -= size;
    bytes -= size;
    if (vector.iov_len == 0) ++vector_at_;
  }
}

void ChannelWriter::push() {
  while (!assembled() || assembly_->held() > 0) {
    ssize_t moved = assembled() ? -EAGAIN : assemble();
    if (moved > 0) continue;
    // The pipe has everything, or is full.
    if (moved == -EAGAIN && assembly_->held() > 0) {
      moved = assembly_->drain(file_.fd, assembly_->held());
      if (moved == -EAGAIN) return poll_for_room(State::kPolling);
    }
    if (moved <= 0 && moved != -EINTR) {
      return client_->channel_failed(write_failure(moved < 0 ? static_cast<int>(-moved) : EPIPE));
    }
  }
  batch_left();
}

// Moves the next vectors, or the next bytes of a pipe, to the assembly. Returns their number, or a
// negative errno (-EAGAIN: it is full).
ssize_t ChannelWriter::assemble() {
  const bool piped = pipe_segment_at_ < pipe_segments_.size();
  const size_t end = piped ? pipe_segments_[pipe_segment_at_].vectors : vectors_.size();
  if (vector_at_ == end) {
    PipeSegment& pipe_segment = pipe_segments_[pipe_segment_at_];
    const ssize_t moved = pipe_segment.pipe->pour(*assembly_, pipe_segment.bytes);
    if (moved > 0) pipe_segment.bytes -= static_cast<uint32_t>(moved);
    if (pipe_segment.bytes == 0) {
      pipes_.release(pipe_segment.pipe);
      ++pipe_segment_at_;
    }
    return moved;
  }
  const ssize_t written = assembly_->write({vectors_.data() + vector_at_, end - vector_at_});
  advance(static_cast<size_t>(std::max<ssize_t>(written, 0)));
  return written;
}

void ChannelWriter::recheck() {
  const bool polling = state_ == State::kPolling || state_ == State::kAwaitingRoom;
  if (!polling || !std::exchange(rechecked_, true)) return;
  pollfd device{file_.fd, POLLOUT, 0};
  if (::poll(&device, 1, 0) > 0) loop_.driver().cancel(op_);
}

void ChannelWriter::complete(Op&, Outcome outcome) {
  const int result = outcome.result;
  rechecked_ = false;
  if (state_ == State::kDetached) {
    let_go();
    return client_->channel_settled();
  }
  if (state_ != State::kWriting) {
    if (result < 0 && result != -ECANCELED) {
      return client_->channel_failed(std::string("poll: ") + std::strerror(-result));
    }
    if (state_ == State::kPolling) return submit(result > 0);
    state_ = State::kIdle;
    return client_->channel_written();
  }
  if (traits_->is_socket) {
    size_t total = 0;
    for (const iovec& vector : vectors_) total += vector.iov_len;
    const bool short_of_room =
        std::exchange(skips_success_, false) && (result == -EAGAIN || result > 0);
    if (result < 0 && !short_of_room) return client_->channel_failed(write_failure(-result));
    const auto sent = static_cast<size_t>(std::max(result, 0));
    if (sent < total) {
      // With kAll a send is short only if the connection broke, or if it did not wait.
      if (!short_of_room) return client_->channel_failed(write_failure(EPIPE));
      vectors_[0].iov_base = static_cast<std::byte*>(vectors_[0].iov_base) + sent;
      vectors_[0].iov_len -= sent;
      return submit();
    }
  } else {
    if (result == -EAGAIN || result == 0) return wait_for_room();
    if (result < 0 && result != -EINTR) return client_->channel_failed(write_failure(-result));
    advance(static_cast<size_t>(std::max(result, 0)));
    if (vector_at_ < vectors_.size()) return submit();
  }
  batch_left();
}

void ChannelWriter::expired(Timer& timer) {
  if (&timer == &retry_) return submit();
  if (!op_.pending) watch_unread();
}

void ChannelWriter::batch_left() {
  state_ = State::kIdle;
  release_buffers();
  client_->channel_written();
}

void ChannelWriter::release_buffers() {
  for (Buffer* buffer : buffers_) pool_.release(buffer);
  buffers_.clear();
  owners_.clear();
  for (; pipe_segment_at_ < pipe_segments_.size(); ++pipe_segment_at_)
    pipes_.release(pipe_segments_[pipe_segment_at_].pipe);
}

}  // namespace virtproxy
