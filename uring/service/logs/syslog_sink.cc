#include "uring/service/logs/syslog_sink.h"

#include <poll.h>

#include <algorithm>

#include "uring/net/sockets.h"

namespace virtproxy {
void SyslogSink::flush() {
  if (!link().up()) return;
  const uint64_t window = spec().address.kind == Address::Kind::kUnix ? kUnixWindow : kWindow;
  while (parcels_.has_unsent() && sent_bytes_ - safe_bytes_ < window) {
    const std::string& message = parcels_.unsent();
    std::string& out = link().out();
    const size_t before = out.size();
    out += std::to_string(message.size());
    out += ' ';
    out += message;
    const size_t size = out.size() - before;
    sizes_.push_back(size);
    sent_bytes_ += size;
    counters().written.fetch_add(size, std::memory_order_relaxed);
    parcels_.mark_sent();
  }
  link().flush();
}

void SyslogSink::link_sent() { check(); }

// What the socket still has is not safe, and what waits for the socket is not either.
void SyslogSink::check() {
  if (!link().up()) return;
  const auto left = static_cast<uint64_t>(std::max(unacknowledged(link().fd()), 0));
  // A peer that is gone took what was in the socket with it, whatever it has written before.
  pollfd gone{link().fd(), POLLRDHUP, 0};
  if (poll(&gone, 1, 0) != 0) return;
  const uint64_t unsent = link().unsent();
  // A unix socket counts what the bytes take up: only zero tells.
  const bool counts = spec().address.kind == Address::Kind::kTcp;
  const uint64_t under_way = sent_bytes_ - safe_bytes_;
  uint64_t passed = 0;
  if (left == 0 || counts) passed = under_way - std::min(under_way, left + unsent);
  const uint64_t before = parcels_.safe();
  while (!sizes_.empty() && sizes_.front() <= passed) {
    passed -= sizes_.front();
    safe_bytes_ += sizes_.front();
    sizes_.pop_front();
    parcels_.acknowledge();
    link().works();
  }
  if (parcels_.safe() != before) progressed();
  if (parcels_.has_unsent()) flush();
  if (!sizes_.empty()) timer().set(loop().now() + kUnreadCheck);
}

void SyslogSink::link_up() {
  counters().up = true;
  parcels_.rewind();
  sizes_.clear();
  sent_bytes_ = safe_bytes_ = 0;
  flush();
}

void SyslogSink::lost() {
  timer().clear();
  parcels_.rewind();
  sizes_.clear();
}

}  // namespace virtproxy
