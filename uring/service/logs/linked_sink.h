// What the sinks have in common that write to a connection: it is made when the sink starts, and
// made again when it is lost. One timer is the sink's own.
#pragma once

#include <memory>

#include "uring/service/logs/log_sink.h"
#include "uring/service/logs/sink_link.h"

namespace virtproxy {

class LinkedSink : public LogSink, protected SinkLink::Client, protected Timer::Owner {
 public:
  void start(Loop& loop, ResolverDriver& resolver, LogSink::Client* client) final;
  void stop() final;
  bool idle() const final { return link_->idle(); }

 protected:
  explicit LinkedSink(const SinkSpec& spec) : spec_(spec) {}

  // The connection is lost, which was counted: what was not acknowledged is to be sent again.
  virtual void lost() = 0;

  const SinkSpec& spec() const { return spec_; }
  // All of them after start().
  Loop& loop() { return *loop_; }
  SinkLink& link() { return *link_; }
  Timer& timer() { return *timer_; }
  // More may be taken, or more is safe.
  void progressed() { client_->sink_progressed(); }

 private:
  void link_down() final;

  const SinkSpec spec_;
  Loop* loop_ = nullptr;
  LogSink::Client* client_ = nullptr;
  std::unique_ptr<SinkLink> link_;
  std::unique_ptr<Timer> timer_;
};

}  // namespace virtproxy
