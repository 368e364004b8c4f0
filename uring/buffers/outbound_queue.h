// Bytes received from an application that the other end may still need, in order.
//
//   0 ────── acked ────── sent ────── queued
//            │             │           └ received from the application
//            │             └ handed to the channel by take()
//            └ not needed any more, their memory is released
//
// All three are offsets in the stream and only grow. What lies between acked and sent is kept for a
// channel that is lost before it has delivered that; who needs none of it acknowledges at once what
// was sent.
//
// The bytes lie in buffers, or are the content of one pipe behind them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "core/assert.h"
#include "uring/buffers/receive_pool.h"
#include "uring/io/pipes.h"

namespace virtproxy {

// The next bytes that an endpoint has to send, in one of four forms:
//   a span of `buffer`, whose reference passes to the caller
//   `piped` bytes of `pipe`, whose reference passes to the caller
//   a span that stays as it is for as long as `owner` is held
//   a span alone, which is copied before the next call of the endpoint
struct OutSegment {
  std::span<const std::byte> bytes{};
  Buffer* buffer = nullptr;
  std::shared_ptr<const void> owner{};
  Pipe* pipe = nullptr;
  uint32_t piped = 0;
  uint32_t size() const { return piped + static_cast<uint32_t>(bytes.size()); }
};

class OutboundQueue {
 public:
  // Both outlive the queue.
  OutboundQueue(ReceivePool& buffers, PipePool& pipes) : buffers_(buffers), pipes_(pipes) {}
  ~OutboundQueue() { clear(); }
  OutboundQueue(const OutboundQueue&) = delete;
  OutboundQueue& operator=(const OutboundQueue&) = delete;

  uint64_t acked() const { return acked_; }
  uint64_t sent() const { return sent_; }
  uint64_t queued() const { return queued_; }
  // What it holds: buffers, and whether there is a pipe.
  uint32_t buffers() const { return count_; }
  bool has_pipe() const { return pipe_ != nullptr; }

  // Takes over a reference to a buffer with at least one byte. Not while there is a pipe: what that
  // holds comes last.
  void push(Buffer* buffer) {
    VP_ASSERT(pipe_ == nullptr && buffer->length() > 0);
    if (head_ == nullptr) head_at_ = queued_;
    (head_ == nullptr ? head_ : tail_->next) = buffer;
    tail_ = buffer;
    if (unsent_ == nullptr) unsent_ = buffer;
    ++count_;
    queued_ += buffer->length();
  }
  // Takes over a reference to a pipe that holds `bytes`, at least one. One pipe at a time.
  void push(Pipe* pipe, uint32_t bytes) {
    VP_ASSERT(pipe_ == nullptr && bytes > 0);
    pipe_ = pipe;
    queued_ += bytes;
  }

  // The next bytes, at least one, at most `bytes`, with a reference for the caller. There are some:
  // sent() < queued().
  OutSegment take(uint32_t bytes) {
    if (unsent_ == nullptr) return take_piped(bytes);
    Buffer* const buffer = unsent_;
    const uint32_t size = bytes < buffer->length() ? bytes : buffer->length();
    const OutSegment segment{.bytes = {buffer->data + buffer->begin, size}, .buffer = buffer};
    buffers_.add_reference(buffer);
    buffer->begin += size;
    if (buffer->length() == 0) unsent_ = buffer->next;
    sent_ += size;
    return segment;
  }

  // What lies before `offset`, at most sent(), is not needed any more.
  void ack(uint64_t offset) {
    VP_ASSERT(acked_ <= offset && offset <= sent_);
    acked_ = offset;
    while (head_ != nullptr && acked_ - head_at_ >= head_->received()) pop();
    if (pipe_ != nullptr && acked_ == queued_) pipes_.release(std::exchange(pipe_, nullptr));
  }

  // Drops everything: acked() and sent() become queued().
  void clear();

 private:
  OutSegment take_piped(uint32_t bytes);
  void pop() {
    Buffer* const buffer = head_;
    head_at_ += buffer->received();
    head_ = buffer->next;
    --count_;
    buffers_.release(buffer);
  }

  ReceivePool& buffers_;
  PipePool& pipes_;
  uint64_t acked_ = 0;
  uint64_t sent_ = 0;
  uint64_t queued_ = 0;
  uint64_t head_at_ = 0;  // the offset of the first byte of head_
  Buffer* head_ = nullptr;
  Buffer* unsent_ = nullptr;  // the first that was not sent entirely
  Buffer* tail_ = nullptr;    // valid while there is a head_
  Pipe* pipe_ = nullptr;
  uint32_t count_ = 0;
};

}  // namespace virtproxy
