// The end here of a stream of virtproxy.control: one line asks, a text answers, and each direction
// ends behind what it carries (daemon/FAR.md). FarAsker is the client at one end, FarService at the
// other.
#pragma once

#include <string>
#include <string_view>

#include "uring/mux/endpoint.h"

namespace virtproxy {

class FarStream final : public Endpoint {
 public:
  class Client {
   public:
    // What has come from the other end. After false the stream is reset.
    virtual bool stream_text(FarStream& stream, std::string_view text) = 0;
    // Both directions have ended in order (kNone), or the stream is over by `fault`. The last call.
    virtual void stream_over(FarStream& stream, Fault fault) = 0;

   protected:
    ~Client() = default;
  };

  // `client` outlives the channel. `text` is sent at once, unless it is empty.
  FarStream(StreamHandle& stream, Client* client, std::string text)
      : stream_(stream), client_(client), text_(std::move(text)) {}

  // Sends `text`, then ends this direction. Once, where the constructor was given none.
  void send(std::string text);
  // Resets the stream, unless it is over.
  void leave(Fault fault);

 private:
  void start() override;
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
  Client* client_;
  std::string text_;
  size_t queued_ = 0;       // of it
  size_t taken_ = 0;        // of it
  uint64_t delivered_ = 0;  // bytes that are not reported as consumed yet
  enum class Input : uint8_t {
    kOpen,
    kEnded,   // by the other end, which has yet to be told that all of it was taken
    kTaken,   // … and was told
    kFailed,  // the client wants no more: reset with the next flush
  };
  Input input_ = Input::kOpen;
};

}  // namespace virtproxy
