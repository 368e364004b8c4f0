#include "uring/service/logs/log_stream.h"

#include <algorithm>
#include <utility>

namespace virtproxy::logs {

void LogStream::send(std::vector<std::byte>& bytes) {
  // What the channel still writes is left alone.
  bytes_.swap(before_);
  if (bytes_ == nullptr || bytes_.use_count() > 1) {
    bytes_ = std::make_shared<std::vector<std::byte>>();
  }
  bytes_->clear();
  bytes_->swap(bytes);
  queued_ = taken_ = 0;
  may_queue();
}

void LogStream::may_queue() {
  if (stream_.is_over() || leaves_ != Fault::kNone || bytes_ == nullptr) return;
  const auto more = std::min<uint64_t>(stream_.request_credit(), bytes_->size() - queued_);
  if (more == 0) return;
  queued_ += more;
  stream_.queue(more);
}

OutSegment LogStream::take(uint32_t bytes) {
  const size_t size = std::min<size_t>(bytes, queued_ - taken_);
  const auto segment = std::span<const std::byte>(*bytes_).subspan(taken_, size);
  taken_ += size;
  std::shared_ptr<const void> owner = bytes_;
  if (ready()) client_.stream_takes_more();
  return {.bytes = segment, .owner = std::move(owner)};
}

void LogStream::deliver(std::span<const std::byte> bytes, ReadBuffer*) {
  delivered_ += bytes.size();
  if (leaves_ == Fault::kNone && client_.stream_input(bytes) != StreamFault::kNone) {
    leaves_ = Fault::kAborted;
  }
  stream_.want_flush();
}

// A receiver ends a stream when it stops.
void LogStream::peer_ended() {
  if (leaves_ == Fault::kNone) leaves_ = Fault::kGoingAway;
  stream_.want_flush();
}

void LogStream::flush(bool) {
  if (stream_.is_over()) return;
  if (leaves_ != Fault::kNone) return leave(leaves_);
  if (delivered_ > 0) stream_.consumed(std::exchange(delivered_, 0));
}

// A stream whose session is over is aborted by its table.
void LogStream::leave(Fault fault) {
  if (stream_.is_over()) return;
  stream_.reset(fault);
  end(fault);
}

void LogStream::end(Fault fault) {
  client_.stream_over(fault);
  stream_.over(fault);
}

}  // namespace virtproxy::logs
