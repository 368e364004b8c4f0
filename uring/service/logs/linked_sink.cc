#include "uring/service/logs/linked_sink.h"

namespace virtproxy {

void LinkedSink::start(Loop& loop, ResolverDriver& resolver, LogSink::Client* client) {
  loop_ = &loop;
  client_ = client;
  Timer::Owner* const owner = this;
  timer_ = std::make_unique<Timer>(loop.timers(), owner);
  SinkLink::Client* const self = this;
  link_ = std::make_unique<SinkLink>(loop, resolver, spec_.address, spec_.label(), self);
  link_->start();
}

void LinkedSink::stop() {
  timer_->clear();
  link_->stop();
}

void LinkedSink::link_down() {
  counters().up = false;
  counters().failures.fetch_add(1, std::memory_order_relaxed);
  lost();
}

}  // namespace virtproxy
