#include "uring/mux/channel_reader.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/assert.h"
#include "core/wire/frame.h"

namespace virtproxy {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr size_t kBuffers = 4;
constexpr size_t kLeastRead =
    16 * 1024;  // less room than this behind the leftover: take a new read buffer
constexpr size_t kBufferBytes = ChannelReader::kLargestFrame + kLeastRead;
// Bytes that are read in one turn from a device that hands out portions.
constexpr size_t kMostPortRead = 128 * 1024;
// Bytes that are spliced in one turn.
constexpr size_t kMostSpliced = 512 * 1024;
// Headers and small frames in a row after which bulk is over.
constexpr unsigned kReadsAfterBulk = 8;
// A read this large may be the beginning of bulk, so reading headers alone is tried. Where it turns
// out to be many small frames, that is tried more and more rarely.
constexpr size_t kLargeRead = 64 * 1024;
constexpr unsigned kMostSkips = 63;
constexpr Duration kAbsenceInterval = milliseconds(100);
// What was read is parsed in pieces, each twice as large as the one before, until one ends later
// than this: 4 ns for a byte of bulk, but 500 ns for an empty frame, and several microseconds for
// one that opens a stream.
constexpr size_t kFirstPiece = 4 * 1024;
constexpr Duration kParseTimePerTurn = microseconds(100);

}  // namespace

ChannelReader::ChannelReader(Loop& loop, Client* client)
    : loop_(loop),
      client_(client),
      op_(this),
      absence_(loop.timers(), this),
      buffers_(kBuffers, kBufferBytes) {}

void ChannelReader::attach(File file, const TransportTraits& traits) {
  VP_ASSERT(!attached() && idle());
  file_ = file;
  traits_ = &traits;
  state_ = State::kIdle;
  poll_first_ = splicing_ = readable_ = rechecked_ = false;
  begin_ = end_ = offered_ = 0;
  unparsed_ = false;
  if (traits.has_presence) {
    state_ = State::kAbsent;
    absence_.set(loop_.now());
  } else {
    read_on();
  }
}

void ChannelReader::detach() {
  state_ = State::kDetached;
  absence_.clear();
  loop_.driver().cancel(op_);
  if (buffer_ != nullptr && !op_.pending) ReadBuffers::release(std::exchange(buffer_, nullptr));
}

void ChannelReader::read_on() {
  if (state_ <= State::kAbsent || !client_->wants_input()) return;
  // Also while a request is pending: bytes that were offered again do not wait for new ones.
  if (unparsed_) {
    parse();
    if (unparsed_ || state_ <= State::kAbsent || !client_->wants_input()) return;
  }
  if (has_request()) return;
  if (!splicing_) return read_normally();
  splice_on();
  client_->channel_spliced();
}

void ChannelReader::splice_on() {
  for (size_t spliced = 0; spliced < kMostSpliced;) {
    if (!client_->begin_splice()) {
      if (!read_header()) return;
      continue;
    }
    const ssize_t moved = client_->splice_payload(file_.fd);
    if (moved > 0) {
      spliced += static_cast<size_t>(moved);
      reads_in_row_ = 0;
      next_skips_ = 0;
      readable_ = false;
    } else if ((moved == -EAGAIN && !readable_) || moved == -EINTR) {
      begin_request(State::kPolling);
      return loop_.driver().poll(op_, file_, POLLIN);
    } else if (moved == 0 || moved == -EAGAIN || moved == -ENOBUFS || moved == -ENOMEM) {
      // A receive finds out which it is: the end, bytes that cannot be spliced (urgent ones, or
      // those behind a full pipe), or nothing.
      return stop_splicing();
    } else {
      return client_->channel_failed(std::strerror(static_cast<int>(-moved)));
    }
  }
  client_->channel_readable();
}

// Reads the rest of a small frame and the next header. False if they have not arrived.
bool ChannelReader::read_header() {
  const size_t size = client_->payload_ahead() + kHeaderSize;
  if (++reads_in_row_ > kReadsAfterBulk || begin_ != end_ || size > kLeastRead || !make_room()) {
    stop_splicing();
    return false;
  }
  const ssize_t got = recv(file_.fd, buffer_->data + end_, size, MSG_DONTWAIT);
  if (got > 0) {
    on_bytes(static_cast<size_t>(got));
    return attached() && !unparsed_;
  }
  if (got == 0) {
    client_->channel_failed("closed by the other end");
  } else {
    // The request gets the same result.
    if (errno == EAGAIN) loop_.driver().found_empty(file_);
    begin_request(State::kReading);
    loop_.driver().recv(op_, file_, buffer_->data + end_, size, true);
  }
  return false;
}

void ChannelReader::stop_splicing() {
  splicing_ = readable_ = false;
  skips_ = next_skips_;
  next_skips_ = std::min(2 * next_skips_ + 1, kMostSkips);
  read_normally();
}

void ChannelReader::begin_request(State state) {
  VP_ASSERT(state_ == State::kIdle || state_ == State::kDry);
  state_ = state;
}

void ChannelReader::read_normally() {
  if (!make_room()) return;
  const bool dry = state_ == State::kDry;
  begin_request(dry ? State::kPolling : State::kReading);
  std::byte* to = buffer_->data + end_;
  const size_t size = kBufferBytes - end_;
  Driver& driver = loop_.driver();
  if (traits_->is_socket) {
    driver.recv(op_, file_, to, size, poll_first_);
  } else if (dry) {
    driver.poll(op_, file_, POLLIN);
  } else {
    driver.read(op_, file_, to, size);
  }
}

// Provides a read buffer with room behind the unused bytes. False if all are still being sent from;
// the turn in which one is released asks again.
bool ChannelReader::make_room() {
  if (buffer_ == nullptr) {
    buffer_ = buffers_.take();
    begin_ = end_ = offered_ = 0;
    return buffer_ != nullptr;
  }
  const bool unshared = buffer_->references == 1;
  if (begin_ == end_ && unshared) begin_ = end_ = 0;
  if (kBufferBytes - end_ >= kLeastRead) return true;
  ReadBuffer* next = unshared ? buffer_ : buffers_.take();
  if (next == nullptr) return false;
  std::memmove(next->data, buffer_->data + begin_, end_ - begin_);
  if (next != buffer_) ReadBuffers::release(buffer_);
  buffer_ = next;
  end_ -= begin_;
  begin_ = 0;
  VP_ASSERT(kBufferBytes - end_ >= kLeastRead);
  return true;
}

bool ChannelReader::recheck() {
  if (!has_request()) return true;
  if (!std::exchange(rechecked_, true)) return false;
  pollfd device{file_.fd, POLLIN, 0};
  if (::poll(&device, 1, 0) <= 0) return true;
  loop_.driver().cancel(op_);
  return false;
}

void ChannelReader::complete(Op&, Outcome outcome) {
  const int result = outcome.result;
  rechecked_ = false;
  if (!attached()) {
    if (buffer_ != nullptr) ReadBuffers::release(std::exchange(buffer_, nullptr));
    return client_->channel_settled();
  }
  const bool polled = state_ == State::kPolling;
  state_ = State::kIdle;
  if (polled) {
    if (result < 0 && result != -ECANCELED) {
      return client_->channel_failed(std::string("poll: ") + std::strerror(-result));
    }
    readable_ = result > 0;
    return read_on();
  }
  switch (result) {
    case 0:
      return on_nothing();
    case -EAGAIN:
      if (!traits_->is_socket) state_ = State::kDry;
      return read_on();
    case -EINTR:
    case -ECANCELED:
      return read_on();
    default:
      if (result < 0) return client_->channel_failed(std::strerror(-result));
      on_bytes(traits_->read_portion > 0 ? read_port(static_cast<size_t>(result))
                                         : static_cast<size_t>(result));
  }
}

// Reads on while full buffers come. The next request gets the result that ends that.
size_t ChannelReader::read_port(size_t count) {
  const size_t portion = traits_->read_portion;
  for (auto got = static_cast<ssize_t>(count); got >= static_cast<ssize_t>(portion);) {
    const size_t room = kBufferBytes - end_ - count;
    if (count >= kMostPortRead || room < portion) break;
    got = ::read(file_.fd, buffer_->data + end_ + count, room);
    count += static_cast<size_t>(std::max<ssize_t>(got, 0));
  }
  return count;
}

void ChannelReader::on_bytes(size_t count) {
  // A read that filled the buffer has left more bytes.
  if (count > 0) {
    poll_first_ = count < kBufferBytes - end_;
    readable_ = false;
  }
  end_ += count;
  VP_ASSERT(end_ <= kBufferBytes);
  parse();
  if (splicing_ || count < kLargeRead || begin_ != end_ || !attached() || !client_->splices())
    return;
  if (skips_ > 0) {
    --skips_;
  } else {
    splicing_ = true;
    reads_in_row_ = 0;
  }
}

void ChannelReader::parse() {
  if (unparsed_ && parsed_at_ == loop_.now()) return client_->channel_readable();
  unparsed_ = false;
  const bool at_once = end_ - begin_ - offered_ <= kFirstPiece;
  const Duration begun = at_once ? Duration::zero() : loop_.spent();
  for (size_t piece = kFirstPiece; attached(); piece *= 2) {
    const size_t size = std::min(offered_ + piece, end_ - begin_);
    const size_t used = client_->channel_input({buffer_->data + begin_, size}, buffer_);
    VP_ASSERT(used <= size);
    begin_ += used;
    offered_ = size - used;
    if (begin_ + offered_ == end_) return;
    if (loop_.spent() - begun > kParseTimePerTurn) {
      unparsed_ = true;
      parsed_at_ = loop_.now();
      return client_->channel_readable();
    }
  }
}

void ChannelReader::offer_again() {
  if (attached() && buffer_ != nullptr && begin_ < end_) parse();
}

void ChannelReader::on_nothing() {
  if (!traits_->has_presence) return client_->channel_failed("closed by the other end");
  absence_.set(loop_.now() + kAbsenceInterval);
  // The other side may close while bytes that were offered again are still being parsed.
  unparsed_ = false;
  begin_ = end_ = offered_ = 0;
  if (std::exchange(state_, State::kAbsent) != State::kAbsent) client_->port_present(false);
}

void ChannelReader::expired(Timer&) {
  if (!make_room()) {
    absence_.set(loop_.now() + kAbsenceInterval);
    return;
  }
  const ssize_t got = ::read(file_.fd, buffer_->data + end_, kBufferBytes - end_);
  if (got == 0 || (got < 0 && errno == EPIPE)) return on_nothing();
  if (got < 0 && errno != EAGAIN && errno != EINTR) {
    return client_->channel_failed(std::strerror(errno));
  }
  state_ = State::kIdle;
  client_->port_present(true);
  if (got > 0) on_bytes(static_cast<size_t>(got));
  read_on();
}

}  // namespace virtproxy
