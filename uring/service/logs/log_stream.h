// The stream that lines are shipped over: the endpoint at this end, which moves bytes between the
// channel and the shipper.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/logs/stream_fault.h"
#include "uring/mux/endpoint.h"

namespace virtproxy::logs {

class LogStream final : public Endpoint {
 public:
  class Client {
   public:
    virtual void stream_began(LogStream& stream) = 0;
    // Bytes of the receiver. After a fault the stream is reset.
    virtual StreamFault stream_input(std::span<const std::byte> bytes) = 0;
    // What send() was given last has left.
    virtual void stream_takes_more() = 0;
    virtual void stream_over(Fault fault) = 0;

   protected:
    ~Client() = default;
  };

  // The client outlives the channel.
  LogStream(StreamHandle& stream, Client& client) : stream_(stream), client_(client) {}

  bool ready() const { return bytes_ == nullptr || taken_ == bytes_->size(); }
  // Sends the bytes, and takes them out of the vector. Only where ready().
  void send(std::vector<std::byte>& bytes);
  // Resets the stream, unless its session is over: then stream_over() comes by itself.
  void leave(Fault fault);

 private:
  void start() override { client_.stream_began(*this); }
  void deliver(std::span<const std::byte> bytes, ReadBuffer* buffer) override;
  void peer_ended() override;
  void peer_broke_off() override { leave(Fault::kAborted); }
  void flush(bool may_skip_success) override;
  void may_queue() override;
  OutSegment take(uint32_t bytes) override;
  void abort(Fault fault) override { end(fault); }
  void finish() override { end(Fault::kNone); }
  void let_go() override {}
  bool idle() const override { return true; }
  void end(Fault fault);

  StreamHandle& stream_;
  Client& client_;
  using Bytes = std::shared_ptr<std::vector<std::byte>>;
  // What send() was given last. The channel holds it, too, until it is written.
  Bytes bytes_;
  Bytes before_;       // what it was given before that
  size_t queued_ = 0;  // of bytes_
  size_t taken_ = 0;
  uint64_t delivered_ = 0;  // not yet reported as consumed
  // The receiver has broken the protocol (kAborted) or ended (kGoingAway): reset with the next
  // flush.
  Fault leaves_ = Fault::kNone;
};

}  // namespace virtproxy::logs
