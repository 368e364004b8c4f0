#include "uring/mux/event_ring.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "uring/base/text.h"
#include "uring/net/peer_identity.h"

namespace virtproxy {
namespace {

constexpr size_t kMostText = 256;  // bytes of one event

constexpr RepeatRule kRefusalEvents{2, std::chrono::seconds(1), RateLimit::Of::kOther};

std::string_view silence_text(Silence silence) {
  switch (silence) {
    case Silence::kSentNothing:
      return "the other end has sent nothing";
    case Silence::kNotGreeted:
      return "the other end has not greeted";
    case Silence::kHangsUp:
      return "the other end closes every connection at once and sends nothing";
    case Silence::kDoesNotAnswer:
      break;
  }
  return "the other end does not answer: clients are refused";
}

}  // namespace

void EventRing::add(ChannelEvent event) {
  const std::lock_guard lock(mutex_);
  event.number = ++last_;
  event.time = std::chrono::system_clock::now();
  if (events_.size() == kCapacity) events_.pop_front();
  events_.push_back(std::move(event));
}

std::vector<ChannelEvent> EventRing::after(uint64_t after) const {
  const std::lock_guard lock(mutex_);
  const auto first = std::upper_bound(
      events_.begin(), events_.end(), after,
      [](uint64_t number, const ChannelEvent& event) { return number < event.number; });
  return {first, events_.end()};
}

EventRecorder::EventRecorder(EventRing& ring, Loop& loop, std::string channel)
    : ring_(ring),
      loop_(loop),
      channel_(std::move(channel)),
      refusals_(loop, kRefusalEvents, [this](ChannelEvent event, uint64_t count, Counted counted) {
        event.hidden = count;
        event.hidden_are = counted;
        ring_.add(std::move(event));
      }) {}

ChannelEvent EventRecorder::event_of(EventKind kind, std::string_view service,
                                     std::string_view text) const {
  return {.kind = kind,
          .channel = channel_,
          .service = std::string(service.substr(0, kMostText)),
          .text = std::string(text.substr(0, kMostText))};
}

void EventRecorder::record(EventKind kind, std::string_view service, std::string_view text) {
  const auto hidden = limits_[static_cast<size_t>(kind)].allow(loop_.now());
  if (!hidden) return;
  ChannelEvent event = event_of(kind, service, text);
  event.hidden = *hidden;
  ring_.add(std::move(event));
}

void EventRecorder::session_up(const SessionUp& event) {
  record(EventKind::kUp, {},
         fmt::format("protocol {}{}; the other end is {}", event.protocol, event.description,
                     event.peer));
}

void EventRecorder::session_silent(const SessionSilent& event) {
  record(EventKind::kSilent, {}, silence_text(event.silence));
}

void EventRecorder::session_down(const SessionDown& event) {
  record(EventKind::kDown, {}, fmt::format("{}{}", event.reason, reset_text(event.streams)));
}

void EventRecorder::peer_dropped(const PeerDropped& event) {
  record(EventKind::kPeerDropped, {}, fmt::format("{} has not greeted", event.peer));
}

void EventRecorder::peer_refused(const PeerRefused& event) {
  record(EventKind::kPeerRefused, {}, fmt::format("{} {}", event.peer, event.reason));
}

void EventRecorder::no_common_version(const NoCommonVersion& event) {
  record(EventKind::kNoVersion, {}, fault_text(event.fault));
}

void EventRecorder::peer_going_away() {
  record(EventKind::kGoingAway, {}, "the other end is going away");
}

void EventRecorder::glitch_seen(const GlitchSeen& event) {
  const GlitchRow& row = glitch_row(event.glitch);
  if (row.expected) return;
  record(EventKind::kGlitch, {}, fmt::format("{} ({}): {}", row.text, event.count, row.outcome));
}

void EventRecorder::client_refused(const ClientRefused& event) {
  refusals_.report(refusal_subject(event), [&] {
    return event_of(EventKind::kClientRefused, event.service,
                    refusal_text(event.reason, known_name(peer_identity_of(event.fd))));
  });
}

void EventRecorder::stream_refused(const StreamRefused& event) {
  const bool unknown = event.fault == Fault::kUnknownService;
  record(
      EventKind::kStreamRefused, printable(event.service),
      unknown ? "the other end asks for it, and it is not offered here" : fault_text(event.fault));
}

void EventRecorder::connect_failed(const ConnectFailed& event) {
  record(EventKind::kServiceDown, event.service, event.reason);
}

void EventRecorder::stream_held_back(const StreamHeldBack& event) {
  record(EventKind::kHeldBack, event.service, "took nothing and held the channel back: closed");
}

// The event of the session stands for those of its streams.
void EventRecorder::stream_closed(const StreamClosed& event) {
  if (event.fault == Fault::kNone || event.role == StreamRole::kAcceptor) return;
  if (fault_row(event.fault).scope == FaultScope::kSession) return;
  record(EventKind::kClientReset, event.service, fault_text(event.fault));
}

void EventRecorder::listener_stalled(const ListenerStalled& event) {
  record(EventKind::kListenerStalled, event.service,
         event.reason == StallReason::kDescriptors ? "no descriptor is free to accept clients"
                                                   : "no memory to accept clients");
}

void EventRecorder::listener_resumed(const ListenerResumed& event) {
  record(EventKind::kListenerResumed, event.service,
         fmt::format("accepts clients again, after {:.1f} s", seconds_of(event.duration)));
}

}  // namespace virtproxy
