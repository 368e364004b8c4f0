// The present state of a channel as statistics. Events are counted in counters.cc.
#include "uring/mux/channel.h"

namespace virtproxy {
namespace {

using StatKind::kCounter;
using StatKind::kGauge;
constexpr StatUnit kBytes = StatUnit::kBytes;

constexpr StatInfo kUp{"channel_up", "1 if the other end is there and has sent something, else 0"};
constexpr StatInfo kProtocol{"channel_protocol",
                             "Protocol version of the session, 0 while there is none"};
constexpr StatInfo kStreams{"streams", "Streams of the session"};
constexpr StatInfo kConnections{"connections", "Sockets of applications that have a stream"};
constexpr StatInfo kClosing{"connections_closing",
                            "Sockets of streams that are over, which the kernel still uses"};
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
                             "Bytes sent and not yet reported as read by the other end, which "
                             "reports in steps",
                             kGauge, kBytes};

constexpr StatInfo kRoundTrip{
    "channel_round_trip",
    "Time from a write until the other end had read it, as last measured under load, 0 before",
    kGauge, StatUnit::kSeconds};

}  // namespace

Channel::Stats Channel::stats() {
  const StreamTable::Stats streams = streams_.stats();
  return {
      .session = selector().stats(),
      .connections = streams.open,
      .closing = streams.closing,
      .connecting = streams.opening,
      .send_buffers = context_.buffers.in_use(),
      .held = context_.held_bytes,
      .waiting = streams.waiting,
      .pipes = context_.pipes.in_use(),
  };
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
  visit(kUp, "up", selector().up() && !admission_.unanswered() ? 1 : 0);
  visit(kProtocol, "protocol", selector().up() ? selector().protocol() : 0);
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
  // The bytes of a session that has ended are no longer in flight.
  visit(kInFlight, "in_flight", selector().up() ? now.session.in_flight : 0);
  visit(kRoundTrip, "", static_cast<uint64_t>(now.session.round_trip.count()));
  visit(kPipes, "pipes", now.pipes);
  context_.counters.visit_stats(visitor, loop().now());
  for (const StatSource* more : more_stats_) more->visit_stats(visitor, loop().now());
  services_.visit_stats(visitor);
}

}  // namespace virtproxy
