#include "uring/channel_writer.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/assert.h"
#include "core/wire.h"
#include "uring/connection.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;

// One bulk batch bounds what a small message waits behind.
constexpr uint64_t kSocketBatch = 256 * 1024;
// virtio_console takes at most 32 KiB a write; what a batch may exceed its limit by fits below.
constexpr uint64_t kDeviceWrite = 32 * 1024;
constexpr uint64_t kBatchSlack = 2048;
constexpr uint64_t kTtyBatch = 2048;
// Below this many bytes a copy costs less than a vector of its own (measured: KERNEL.md's table of
// batches on one socket; the crossing lies between 1 and 8 KiB).
constexpr size_t kCopyBelow = 2048;
constexpr size_t kMostVectors = 1024;  // UIO_MAXIOV: one more is EMSGSIZE
constexpr Duration kFullInterval = milliseconds(20);

}  // namespace

ChannelWriter::ChannelWriter(Loop& loop, ProtocolChoice& choice, ReceivePool& pool, Client* client)
    : loop_(loop),
      choice_(choice),
      pool_(pool),
      client_(client),
      op_(this),
      retry_(loop.timers(), this) {
  vectors_.reserve(kMostVectors);
}

void ChannelWriter::attach(File file, Link::Kind kind) {
  VP_ASSERT(!attached_ && idle());
  file_ = file;
  kind_ = kind;
  attached_ = true;
  polling_ = false;
}

void ChannelWriter::detach() {
  attached_ = false;
  retry_.clear();
  loop_.ring().cancel(op_);
  if (!op_.pending) release_buffers();
}

uint64_t ChannelWriter::batch_limit() const {
  switch (kind_) {
    case Link::Kind::kSocket:
      if (!choice_.up()) return kSocketBatch;
      return std::min(kSocketBatch, choice_.session().most_batch());
    case Link::Kind::kPort:
      return kDeviceWrite - kBatchSlack;
    case Link::Kind::kTty:
      return kTtyBatch;
  }
  return kTtyBatch;
}

void ChannelWriter::write_on(Events& events) {
  if (!attached_ || op_.pending || retry_.armed()) return;
  if (!choice_.wants_to_write(loop_.now())) return;
  const Batch& batch = choice_.plan(batch_limit(), loop_.now(), events);
  if (batch.empty()) return;
  lay_out(batch);
  submit();
}

void ChannelWriter::lay_out(const Batch& batch) {
  vectors_.clear();
  staged_ = 0;
  written_ = 0;
  if (staging_.size() < batch.size) staging_.resize(batch.size);
  const bool copy_all = kind_ != Link::Kind::kSocket || choice_.session().uses_trailers();
  for (const Piece& piece : batch.pieces) {
    copy(batch.head(piece));
    if (piece.payload == 0) continue;
    const size_t payload_at = staged_;
    Connection& connection = client_->connection_of(piece.stream);
    for (uint32_t left = piece.payload; left > 0;) {
      const Connection::Part part = connection.take(left);
      left -= static_cast<uint32_t>(part.bytes.size());
      if (copy_all || part.bytes.size() < kCopyBelow || vectors_.size() + 2 >= kMostVectors) {
        copy(part.bytes);
        pool_.release(part.buffer);
      } else {
        reference(part.bytes, part.buffer);
      }
    }
    if (piece.sealed) {
      const size_t frame_at = payload_at - kHeaderSize;
      std::byte trailer[kTrailerSize];
      store_le(trailer, choice_.session().seal({staging_.data() + frame_at, staged_ - frame_at}));
      copy(trailer);
    }
    connection.receive_more();
  }
}

void ChannelWriter::copy(std::span<const std::byte> bytes) {
  VP_ASSERT(bytes.size() <= staging_.size() - staged_);
  std::byte* to = staging_.data() + staged_;
  std::memcpy(to, bytes.data(), bytes.size());
  staged_ += bytes.size();
  add_vector(to, bytes.size());
}

void ChannelWriter::reference(std::span<const std::byte> bytes, Buffer* buffer) {
  buffers_.push_back(buffer);
  add_vector(bytes.data(), bytes.size());
}

void ChannelWriter::add_vector(const std::byte* data, size_t size) {
  if (!vectors_.empty()) {
    iovec& last = vectors_.back();
    if (static_cast<const std::byte*>(last.iov_base) + last.iov_len == data) {
      last.iov_len += size;
      return;
    }
  }
  vectors_.push_back({const_cast<std::byte*>(data), size});
}

void ChannelWriter::submit() {
  Ring& ring = loop_.ring();
  if (polling_) {
    ring.poll(op_, file_, POLLOUT);
  } else if (kind_ != Link::Kind::kSocket) {
    ring.write(op_, file_, staging_.data() + written_,
               std::min<size_t>(staged_ - written_, kDeviceWrite));
  } else if (vectors_.size() == 1) {
    ring.send(op_, file_, vectors_[0].iov_base, vectors_[0].iov_len, MSG_WAITALL);
  } else {
    message_.msg_iov = vectors_.data();
    message_.msg_iovlen = vectors_.size();
    ring.sendmsg(op_, file_, &message_, MSG_WAITALL);
  }
}

void ChannelWriter::complete(Op&, int result, uint32_t) {
  if (!attached_) {
    release_buffers();
    return client_->channel_settled();
  }
  if (polling_) {
    polling_ = false;
    if (result < 0) return client_->channel_failed(std::string("poll: ") + std::strerror(-result));
    return submit();
  }
  if (kind_ == Link::Kind::kSocket) {
    size_t total = 0;
    for (const iovec& vector : vectors_) total += vector.iov_len;
    if (result < 0) return client_->channel_failed(std::strerror(-result));
    // MSG_WAITALL: short only when the connection broke.
    if (static_cast<size_t>(result) < total) return client_->channel_failed("write cut short");
  } else {
    if (result == -EAGAIN || result == 0) {
      // A tty can be polled for room. A port whose other side is gone says it hung up, again and
      // again: there, wait a moment instead.
      if (kind_ == Link::Kind::kTty) {
        polling_ = true;
        return submit();
      }
      retry_.set(loop_.now() + kFullInterval);
      return;
    }
    if (result < 0 && result != -EINTR) return client_->channel_failed(std::strerror(-result));
    written_ += static_cast<size_t>(std::max(result, 0));
    if (written_ < staged_) return submit();
  }
  release_buffers();
  client_->channel_written();
}

void ChannelWriter::expired(Timer&) { submit(); }

void ChannelWriter::release_buffers() {
  for (Buffer* buffer : buffers_) pool_.release(buffer);
  buffers_.clear();
}

}  // namespace virtproxy
