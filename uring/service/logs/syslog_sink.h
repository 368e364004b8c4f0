// Lines over a stream to a syslog server, each with its length in front of it (RFC 6587, octet
// counting). The protocol has no answers, so that safe means little:
//
//   syslog+unix   the process has read it: nothing is left in the socket (SIOCOUTQ)
//   syslog+tcp    the peer's kernel has it
//
// After a lost connection everything that was not safe is sent again.
#pragma once

#include <deque>
#include <string>
#include <string_view>

#include "uring/service/logs/line_format.h"
#include "uring/service/logs/linked_sink.h"
#include "uring/service/logs/sent_parcels.h"

namespace virtproxy {

class SyslogSink final : public LinkedSink {
 public:
  explicit SyslogSink(const SinkSpec& spec) : LinkedSink(spec), writer_(spec.format) {}

  bool has_room() const override { return parcels_.bytes() < kWindow; }
  void take(const ParcelView& view) override { parcels_.add(view, writer_); }
  void flush() override;
  uint64_t safe() const override { return parcels_.safe(); }

 private:
  static constexpr size_t kWindow = 4u << 20;
  // Of a unix socket nothing is known until all of it was read: so little is sent at once.
  static constexpr size_t kUnixWindow = 128u << 10;

  void link_up() override;
  void link_received(std::string_view) override {}
  void link_sent() override;
  void lost() override;
  void expired(Timer&) override { check(); }
  void check();

  LineWriter writer_;
  SentParcels parcels_;
  std::deque<size_t> sizes_;  // on the wire, of the messages that were sent
  uint64_t sent_bytes_ = 0;   // on this connection
  uint64_t safe_bytes_ = 0;
};

}  // namespace virtproxy
