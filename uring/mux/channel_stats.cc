// A channel's statistics: what it has now; what happened to it is counted in counters.cc.
#include "uring/mux/channel.h"

namespace virtproxy {
namespace {

constexpr StatKind kCounter = StatKind::kCounter;
constexpr StatKind kGauge = StatKind::kGauge;
constexpr StatUnit kBytes = StatUnit::kBytes;

constexpr StatInfo kUp{"channel_up", "1 if the other end is there and has sent something, else 0"};
constexpr StatInfo kProtocol{"channel_protocol",
                             "Protocol version of the session, 0 while there is none"};
constexpr StatInfo kStreams{"streams", "Streams of the session"};
constexpr StatInfo kConnections{"connections", "Sockets of applications that have a stream"};
constexpr StatInfo kClosing{"connections_closing", "Sockets of applications that are being closed"};
constexpr StatInfo kConnecting{"connections_connecting", "Connections to services being made"};
constexpr StatInfo kWaiting{"connections_waiting", "Connections that wait for a receive buffer"};
constexpr StatInfo kMemory{"memory",
                           "Bytes on their way to the channel (send) or to applications (receive)",
                           kGauge, kBytes};
constexpr StatInfo kMemoryLimit{
    "memory_limit", "Memory of the channel for all that grows with traffic", kGauge, kBytes};
constexpr StatInfo kBorrowed{
    "credit_borrowed", "Credit granted beyond the promised windows of the streams", kGauge, kBytes};
constexpr StatInfo kSendBuffers{"send_buffers", "Receive buffers that hold bytes for the channel"};
constexpr StatInfo kPipes{"pipes", "Pipes in use for bulk"};
constexpr StatInfo kSessions{"sessions", "Sessions established", kCounter};
constexpr StatInfo kInFlight{"channel_in_flight",
                             "Bytes sent and not yet reported as read by the other end", kGauge,
                             kBytes};

}  // namespace

Channel::Stats Channel::stats() {
  Stats stats;
  stats.session = selector_.stats();
  stats.connections = open_connections_;
  stats.closing = departed_.size() + ended_.size() + closing_.size() + lingering_.size();
  stats.connecting = connecting_;
  stats.send_buffers = pool_.in_use();
  stats.held = held_bytes_;
  stats.waiting = waiting_[0].size() + waiting_[1].size();
  stats.pipes = pipes_.in_use();
  return stats;
}

void Channel::visit_stats(StatVisitor& visitor) {
  const Stats now = stats();
  const auto visit = [&](const StatInfo& info, std::string_view word, uint64_t value) {
    visitor.visit(info, {value, word});
  };
  const auto visit_memory = [&](std::string_view pool, std::string_view word, uint64_t value) {
    const StatLabel label{"pool", pool};
    visitor.visit(kMemory, {value, word, {&label, 1}});
  };
  visit(kUp, "up", selector_.up() && !unanswered() ? 1 : 0);
  visit(kProtocol, "protocol", selector_.up() ? selector_.protocol() : 0);
  visit(kStreams, "streams", now.session.streams);
  visit(kConnections, "connections", now.connections);
  visit(kClosing, "closing", now.closing);
  visit(kConnecting, "connecting", now.connecting);
  visit(kSendBuffers, "send_buffers", now.send_buffers);
  visit_memory("send", "send_bytes", now.session.queued);
  visit_memory("receive", "held_bytes", now.held);
  visit(kMemoryLimit, "", config_.memory);
  visit(kBorrowed, "granted_bytes", now.session.borrowed);
  visit(kWaiting, "waiting", now.waiting);
  visit(kSessions, "sessions", now.session.sessions);
  visit(kInFlight, "in_flight", now.session.in_flight);
  visit(kPipes, "pipes", now.pipes);
  counters_.visit_stats(visitor, loop_.now());
}

}  // namespace virtproxy
