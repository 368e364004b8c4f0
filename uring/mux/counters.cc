#include "uring/mux/counters.h"

#include <algorithm>
#include <utility>

namespace virtproxy {
namespace {

using StatKind::kCounter;
using StatKind::kGauge;

constexpr StatInfo kSessionFaults{"session_faults", "Sessions that ended, by the reason", kCounter};
constexpr StatInfo kPeersRefused{"channel_peers_refused",
                                 "Connections of other ends that the channel's listener closed",
                                 kCounter};
constexpr StatInfo kStreamsOpened{"streams_opened", "Streams opened, by the forward", kCounter};
constexpr StatInfo kStreamResets{"stream_resets",
                                 "Streams that did not end in order, by the reason", kCounter};
constexpr StatInfo kStreamBytes{
    "stream", "Payload taken from local applications (sent) and delivered to them (received)",
    kCounter, StatUnit::kBytes};
constexpr StatInfo kStreamBlocked{
    "stream_blocked",
    "Time that streams, and listeners without a descriptor, have waited in all, by the reason",
    kCounter, StatUnit::kSeconds};
constexpr StatInfo kStreamsBlocked{
    "streams_blocked", "Streams, and listeners without a descriptor, that wait now, by the reason",
    kGauge};
constexpr StatInfo kClientsRefused{
    "clients_refused", "Clients reset because they could not have a stream, by the reason",
    kCounter};
constexpr StatInfo kConnectFailures{"connect_failures",
                                    "Connections to services that failed, by the reason", kCounter};
constexpr StatInfo kConnectTimes{
    "connect", "Time until a service had accepted the connection for a stream, by the forward",
    StatKind::kHistogram, StatUnit::kSeconds};
constexpr StatInfo kStreamDurations{"stream_duration",
                                    "How long streams that are over have lasted, by the forward",
                                    StatKind::kHistogram, StatUnit::kSeconds};
constexpr StatInfo kStreamsRefused{
    "streams_refused", "Streams of the other end that this end refused, by the reason", kCounter};
constexpr StatInfo kGlitches{
    "glitches", "Violations of protocol 1 by the other end that were dealt with, by their kind",
    kCounter};

// What a connection to a service fails of. Shown even if it never happened, so that the series
// exist before the first failure.
constexpr std::array kConnectFaults{Fault::kRefused, Fault::kTimedOut, Fault::kUnreachable,
                                    Fault::kNoResources};
constexpr std::array kRefusalFaults{Fault::kUnknownService, Fault::kTooManyStreams};

}  // namespace

void ChannelCounters::add_forward(const ForwardSpec& forward, StreamRole role) {
  Forward& counters = forwards_[forward.service];
  (role == StreamRole::kOpener ? counters.listens : counters.offers) = true;
}

ChannelCounters::Forward& ChannelCounters::forward_of(std::string_view service) {
  const auto found = forwards_.find(service);
  return found == forwards_.end() ? unknown_ : found->second;
}

void ChannelCounters::session_down(const SessionDown& event) {
  ++session_faults_[fault_row(event.fault)];
}

void ChannelCounters::no_common_version(const NoCommonVersion& event) {
  ++session_faults_[fault_row(event.fault)];
}

void ChannelCounters::glitch_seen(const GlitchSeen& event) {
  ++glitches_[static_cast<size_t>(&glitch_row(event.glitch) - glitch_rows().data())];
}

void ChannelCounters::client_refused(const ClientRefused& event) {
  ++forward_of(event.service).refused[static_cast<size_t>(event.reason)];
}

void ChannelCounters::stream_opened(const StreamOpened& event) {
  ++forward_of(event.service).opened;
}

void ChannelCounters::stream_refused(const StreamRefused& event) {
  ++refused_streams_[fault_row(event.fault)];
}

void ChannelCounters::service_connected(const ServiceConnected& event) {
  forward_of(event.service).connect_times.add(event.duration);
}

void ChannelCounters::connect_failed(const ConnectFailed& event) {
  ++forward_of(event.service).connect_failures[fault_row(event.fault)];
}

void ChannelCounters::stream_stalled(const StreamStalled& event) {
  const bool unread = event.reason == StallReason::kCredit && unread_.reading == Reading::kStopped;
  (unread ? unread_credit_ : stalls_[static_cast<size_t>(event.reason)]).begin(event.since);
}

void ChannelCounters::stream_unstalled(const StreamUnstalled& event) {
  const Instant now = event.since + event.duration;
  StallTotal& total = stalls_[static_cast<size_t>(event.reason)];
  if (event.reason != StallReason::kCredit) return total.end(event.since, now);
  const bool unread = unread_.reading == Reading::kStopped;
  // It was moved then.
  (unread ? unread_credit_ : total).end(std::max(event.since, unread_.since), now);
}

bool ChannelCounters::credit_is_out() const {
  return unread_credit_.open() + stalls_[static_cast<size_t>(StallReason::kCredit)].open() > 0;
}

void ChannelCounters::note_reading(Reading reading, Instant now) {
  if (reading == unread_.reading) return;
  StallTotal& credit = stalls_[static_cast<size_t>(StallReason::kCredit)];
  if (reading == Reading::kStopped) {
    credit.move_to(unread_credit_, now);
  } else {
    unread_credit_.move_to(credit, now);
  }
  unread_ = {reading, now, unread_.until(now)};
}

void ChannelCounters::listener_stalled(const ListenerStalled& event) {
  stalls_[static_cast<size_t>(event.reason)].begin(event.since);
  Forward& forward = forward_of(event.service);
  if (++forward.stalled_listeners > 1) return;
  forward.listener_wait.reason = event.reason;
  forward.listener_wait.since = event.since;
}

void ChannelCounters::listener_resumed(const ListenerResumed& event) {
  const Instant now = event.since + event.duration;
  stalls_[static_cast<size_t>(event.reason)].end(event.since, now);
  Forward& forward = forward_of(event.service);
  if (--forward.stalled_listeners > 0) return;
  forward.listener_wait.waited += now - forward.listener_wait.since;
}

void ChannelCounters::visit_listener_waits(
    const std::function<void(const ListenerWait&)>& visit) const {
  for (const auto& [service, forward] : forwards_) {
    if (forward.stalled_listeners == 0) continue;
    ListenerWait wait = forward.listener_wait;
    wait.service = service;
    visit(wait);
  }
}

void ChannelCounters::stream_closed(const StreamClosed& event) {
  if (event.fault != Fault::kNone) ++resets_[fault_row(event.fault)];
  forward_of(event.service).durations.add(event.duration);
}

void ChannelCounters::visit_stats(StatVisitor& visitor, Instant now) const {
  const auto visit = [&](const StatInfo& info, std::string_view word, uint64_t value,
                         std::initializer_list<StatLabel> labels) {
    visitor.visit(info, {value, word, {labels.begin(), labels.size()}});
  };
  for (const FaultRow& row : fault_rows()) {
    if (row.scope != FaultScope::kSession) continue;
    visit(kSessionFaults, "session_faults", session_faults_[row], {{"fault", row.name}});
  }
  visit(kPeersRefused, "peers_refused", peers_refused_, {});
  for (const auto& [service, forward] : forwards_) {
    visit(kStreamsOpened, "opened", forward.opened, {{"forward", service}});
  }
  for (const FaultRow& row : fault_rows()) {
    if (row.fault == Fault::kNone) continue;
    visit(kStreamResets, "resets", resets_[row], {{"reason", row.name}});
  }
  for (const auto& [service, forward] : forwards_) {
    visit(kStreamBytes, "sent_bytes", forward.bytes.sent,
          {{"forward", service}, {"direction", "sent"}});
    visit(kStreamBytes, "received_bytes", forward.bytes.received,
          {{"forward", service}, {"direction", "received"}});
  }
  for (size_t i = 0; i < kStallReasons; ++i) {
    const auto reason = static_cast<StallReason>(i);
    const uint64_t unread = reason == StallReason::kChannel ? unread_credit_.until(now) : 0;
    visit(kStreamBlocked, "", stalls_[i].until(now) + unread, {{"reason", stall_name(reason)}});
  }
  for (size_t i = 0; i < kStallReasons; ++i) {
    const auto reason = static_cast<StallReason>(i);
    const uint64_t unread = reason == StallReason::kChannel ? unread_credit_.open() : 0;
    visit(kStreamsBlocked, "", stalls_[i].open() + unread, {{"reason", stall_name(reason)}});
  }
  for (const auto& [service, forward] : forwards_) {
    if (!forward.listens) continue;
    for (size_t i = 0; i < kRefusalReasons; ++i) {
      visit(kClientsRefused, "refused", forward.refused[i],
            {{"forward", service}, {"reason", refusal_row(static_cast<RefusalReason>(i)).name}});
    }
  }
  for (const auto& [service, forward] : forwards_) {
    if (!forward.offers) continue;
    for (const Fault fault : kConnectFaults) {
      const FaultRow& row = fault_row(fault);
      visit(kConnectFailures, "connect_failures", forward.connect_failures[row],
            {{"forward", service}, {"reason", row.name}});
    }
  }
  const auto visit_times = [&](const StatInfo& info, const std::string& service,
                               const DurationHistogram& times) {
    const StatLabel label{"forward", service};
    visitor.visit(info, {0, {}, {&label, 1}, &times});
  };
  for (const auto& [service, forward] : forwards_) {
    if (forward.offers) visit_times(kConnectTimes, service, forward.connect_times);
  }
  for (const auto& [service, forward] : forwards_) {
    visit_times(kStreamDurations, service, forward.durations);
  }
  for (const Fault fault : kRefusalFaults) {
    const FaultRow& row = fault_row(fault);
    visit(kStreamsRefused, "streams_refused", refused_streams_[row], {{"reason", row.name}});
  }
  for (const GlitchRow& row : glitch_rows()) {
    if (row.glitch == Glitch::kNone) continue;
    const auto place = static_cast<size_t>(&row - glitch_rows().data());
    visit(kGlitches, "glitches", glitches_[place], {{"kind", row.name}});
  }
}

}  // namespace virtproxy
