// Lines to rsyslog's imrelp or another receiver of RELP (the Reliable Event Logging Protocol,
// github.com/rsyslog/librelp, doc/relp.html). Safe is what the receiver has answered with 200: with
// rsyslog, what is in its queue.
//
//   TXNR SP COMMAND SP LENGTH [SP DATA] LF
//
// Answers come in the order of the numbers. After a lost connection everything that was not
// answered is sent again; the receiver may have it already, and knows it by log and seq.
#pragma once

#include <string>
#include <string_view>

#include "uring/service/logs/line_format.h"
#include "uring/service/logs/linked_sink.h"
#include "uring/service/logs/sent_parcels.h"

namespace virtproxy {

class RelpSink final : public LinkedSink {
 public:
  explicit RelpSink(const SinkSpec& spec) : LinkedSink(spec), writer_(spec.format) {}

  bool has_room() const override { return parcels_.bytes() < kWindow; }
  void take(const ParcelView& view) override { parcels_.add(view, writer_); }
  void flush() override;
  uint64_t safe() const override { return parcels_.safe(); }

 private:
  // Bytes that wait for an answer.
  static constexpr size_t kWindow = 4u << 20;
  // … and that are queued for the socket at once.
  static constexpr size_t kMostUnsent = 256u << 10;

  void link_up() override;
  void link_received(std::string_view bytes) override;
  void link_sent() override { flush(); }
  void lost() override;
  // An answer is overdue.
  void expired(Timer& timer) override;
  bool take_answer(std::string_view& rest);
  void frame(std::string_view command, std::string_view data);

  LineWriter writer_;
  SentParcels parcels_;
  enum class State : uint8_t { kDown, kOpening, kOpen } state_ = State::kDown;
  uint32_t next_ = 1;    // transaction number
  uint32_t answer_ = 1;  // … of the next answer
  std::string input_;
};

}  // namespace virtproxy
