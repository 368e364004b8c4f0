// Lines over a stream to a syslog server, each with its length in front of it (RFC 6587, octet
// counting). The protocol has no answers, so that safe means little:
//
//   syslog+unix   the process has read it: nothing is left in the socket (SIOCOUTQ)
//   syslog+tcp    the peer's kernel has it
//
// After a lost connection everything that was not safe is sent again.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>

#include "uring/service/logs/line_format.h"
#include "uring/service/logs/log_sink.h"
#include "uring/service/logs/sent_parcels.h"
#include "uring/service/logs/sink_link.h"

namespace virtproxy {

class SyslogSink final : public LogSink, private SinkLink::Client, private Timer::Owner {
 public:
  explicit SyslogSink(const SinkSpec& spec) : spec_(spec), writer_(spec.format) {}

  void start(Loop& loop, ResolverDriver& resolver, LogSink::Client* client) override;
  bool has_room() const override { return parcels_.bytes() < kWindow; }
  void take(const ParcelView& view) override { parcels_.add(view, writer_); }
  void flush() override;
  uint64_t safe() const override { return parcels_.safe(); }
  void stop() override;
  bool idle() const override { return link_->idle(); }

 private:
  static constexpr size_t kWindow = 4u << 20;
  // Of a unix socket nothing is known until all of it was read: so little is sent at once.
  static constexpr size_t kUnixWindow = 128u << 10;

  void link_up() override;
  void link_received(std::string_view) override {}
  void link_sent() override;
  void link_down() override;
  void expired(Timer&) override { check(); }
  void check();

  const SinkSpec spec_;
  LineWriter writer_;
  Loop* loop_ = nullptr;
  LogSink::Client* client_ = nullptr;
  std::unique_ptr<SinkLink> link_;
  std::unique_ptr<Timer> check_;
  SentParcels parcels_;
  std::deque<size_t> sizes_;  // on the wire, of the messages that were sent
  uint64_t sent_bytes_ = 0;   // on this connection
  uint64_t safe_bytes_ = 0;
};

}  // namespace virtproxy
