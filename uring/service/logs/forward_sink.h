// Lines to Fluent Bit, Fluentd, Vector or another receiver of the Fluent forward protocol, version
// 1 (github.com/fluent/fluentd, wiki "Forward Protocol Specification v1"). Safe is what the
// receiver has answered with the chunk's identifier.
//
//   [tag, entries, {"chunk": id, "size": n}]   PackedForward, of each parcel one
//   {"ack": id}                                its answer
//
// The tag is virtproxy.VM. After a lost connection every chunk without an answer is sent again.
#pragma once

#include <deque>
#include <string>
#include <string_view>

#include "uring/service/logs/linked_sink.h"

namespace virtproxy {

class ForwardSink final : public LinkedSink {
 public:
  explicit ForwardSink(const SinkSpec& spec) : LinkedSink(spec) {}

  bool has_room() const override { return bytes_ < kWindow; }
  void take(const ParcelView& view) override;
  void flush() override;
  uint64_t safe() const override { return safe_; }

 private:
  // Bytes of chunks that wait for an answer.
  static constexpr size_t kWindow = 4u << 20;
  // … and that are queued for the socket at once.
  static constexpr size_t kMostUnsent = 256u << 10;

  struct Chunk {
    std::string id;
    std::string bytes;
    bool answered = false;
  };

  void link_up() override;
  void link_received(std::string_view bytes) override;
  void link_sent() override { flush(); }
  void lost() override;
  // An answer is overdue.
  void expired(Timer& timer) override;
  // One answer at the front of `rest`. False if it is not complete, or was the last one.
  bool take_answer(std::string_view& rest);
  void advance();

  std::deque<Chunk> chunks_;  // one for each parcel that is not safe
  size_t sent_ = 0;           // of them, on this connection
  size_t bytes_ = 0;
  uint64_t safe_ = 0;
  std::string input_;
};

}  // namespace virtproxy
