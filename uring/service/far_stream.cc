#include "uring/service/far_stream.h"

#include <algorithm>
#include <utility>

namespace virtproxy {

void FarStream::start() {
  if (stream_.role() == StreamRole::kAcceptor) stream_.accepted();
  may_queue();
}

void FarStream::send(std::string text) {
  text_ = std::move(text);
  may_queue();
}

void FarStream::may_queue() {
  if (stream_.is_over() || queued_ == text_.size()) return;
  const auto more = std::min<uint64_t>(stream_.request_credit(), text_.size() - queued_);
  if (more == 0) return;
  queued_ += more;
  stream_.queue(more);
  if (queued_ == text_.size()) stream_.end();
}

OutSegment FarStream::take(uint32_t bytes) {
  const auto part =
      std::string_view(text_).substr(taken_, std::min<size_t>(bytes, queued_ - taken_));
  taken_ += part.size();
  return {.bytes = std::as_bytes(std::span(part))};
}

void FarStream::deliver(std::span<const std::byte> bytes, ReadBuffer*) {
  delivered_ += bytes.size();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (input_ == Input::kOpen && !client_->stream_text(*this, text)) input_ = Input::kFailed;
  stream_.want_flush();
}

void FarStream::peer_ended() {
  if (input_ == Input::kOpen) input_ = Input::kEnded;
  stream_.want_flush();
}

void FarStream::flush(bool) {
  if (stream_.is_over()) return;
  if (input_ == Input::kFailed) return leave(Fault::kAborted);
  if (delivered_ > 0) stream_.consumed(std::exchange(delivered_, 0));
  if (input_ != Input::kEnded) return;
  input_ = Input::kTaken;
  stream_.eof_delivered();
}

// A stream whose session is over is aborted by its table.
void FarStream::leave(Fault fault) {
  if (stream_.is_over()) return;
  stream_.reset(fault);
  end(fault);
}

void FarStream::end(Fault fault) {
  client_->stream_over(*this, fault);
  stream_.over(fault);
}

}  // namespace virtproxy
