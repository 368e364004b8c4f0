#include "uring/mux/channel_log.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "core/peer_identity.h"
#include "uring/net/address.h"
#include "uring/net/peer_identity.h"

namespace virtproxy {
namespace {

std::string client_of(std::span<const std::byte> encoded) {
  return describe(decode_peer_identity(encoded).value_or(PeerIdentity{}));
}

}  // namespace

// --- the transport and the session ------------------------------------------------------------

void ChannelLog::listening(const ForwardSpec& forward) {
  log_info("channel {}: listening on {} for service {}", channel_, forward.address.to_string(),
           forward.service);
}

void ChannelLog::transport_up() { log_debug("channel {}: transport established", channel_); }

void ChannelLog::transport_lost(const TransportLost& event) {
  log_debug("channel {}: transport lost: {}", channel_, event.reason);
}

void ChannelLog::session_up(const SessionUp& event) {
  changed(fmt::format("up, protocol {}{}", event.protocol, event.description));
}

void ChannelLog::session_silent(const SessionSilent& event) {
  constexpr LogLevel kLevel = LogLevel::kWarn;
  switch (event.silence) {
    case Silence::kSentNothing:
      return changed("connected, but the other end has sent nothing", kLevel);
    case Silence::kNotGreeted:
      return changed("connected, but the other end has not greeted (--protocol 2)", kLevel);
    case Silence::kDoesNotAnswer:
      return changed("connected, but the other end does not answer: clients are refused", kLevel);
  }
}

void ChannelLog::session_down(const SessionDown& event) {
  changed(fmt::format("down: {}", event.reason));
}

void ChannelLog::peer_dropped(const PeerDropped& event) {
  log_warn("channel {}: the peer, {}, has not greeted within {} s (--protocol 2): dropped",
           channel_, event.peer,
           std::chrono::duration_cast<std::chrono::seconds>(event.after).count());
}

void ChannelLog::no_common_version(const NoCommonVersion& event) {
  if (versions_.allow(loop_.now())) {
    log_error("channel {}: {}", channel_, fault_text(event.fault));
  }
}

void ChannelLog::peer_going_away() {
  if (const auto hidden = departures_.allow(loop_.now())) {
    log_info("channel {}: the other end is going away{}", channel_, and_others(*hidden));
  }
}

void ChannelLog::glitch_seen(const GlitchSeen& event) {
  const GlitchRow& row = glitch_row(event.glitch);
  if (row.expected) {
    log_debug("channel {}: the other end sent {} ({}): {}", channel_, row.text, event.count,
              row.outcome);
  } else if (const auto hidden = glitches_.allow(loop_.now())) {
    log_warn("channel {}: the other end sent {} ({}): {}{}", channel_, row.text, event.count,
             row.outcome, and_others(*hidden));
  }
}

// --- clients and streams ----------------------------------------------------------------------

void ChannelLog::client_refused(const ClientRefused& event) {
  const bool listed = event.reason != RefusalReason::kNotAllowed;
  const auto hidden = (listed ? refusals_ : not_allowed_).allow(loop_.now());
  if (!hidden) return;
  log_warn("channel {}: service {}: client refused: {}{}{}", channel_, event.service,
           listed ? "" : describe(peer_identity_of(event.fd)) + " is ",
           refusal_row(event.reason).text, and_others(*hidden));
}

void ChannelLog::stream_opened(const StreamOpened& event) {
  if (!log_enabled(LogLevel::kDebug)) return;
  const std::string client = client_of(event.client);
  if (event.role == StreamRole::kOpener) {
    log_debug("channel {}: client of service {} from {} at {}", channel_, event.service, client,
              event.address == nullptr ? "this process" : event.address->to_string());
  } else {
    log_debug("channel {}: stream to service {} from {}", channel_, event.service, client);
  }
}

void ChannelLog::stream_refused(const StreamRefused& event) {
  if (event.fault != Fault::kUnknownService || !not_offered_.allow(loop_.now())) return;
  const std::string service = printable(event.service);
  log_warn("channel {}: the other end asks for service {}, which is not offered here (-i {}:…)",
           channel_, service, service);
}

void ChannelLog::connect_failed(const ConnectFailed& event) {
  if (const auto hidden = connect_failures_.allow(loop_.now())) {
    log_info("channel {}: service {}: {}{}", channel_, event.service, event.reason,
             and_others(*hidden));
  }
}

void ChannelLog::stream_broken_off(const StreamBrokenOff& event) {
  log_debug("channel {}: service {}: the application at the other end broke off", channel_,
            event.service);
}

void ChannelLog::stream_held_back(const StreamHeldBack& event) {
  const auto hidden = held_back_.allow(loop_.now());
  if (!hidden) return;
  const std::string application = event.role == StreamRole::kAcceptor
                                      ? "the connection to it"
                                      : "the client from " + describe(peer_identity_of(event.fd));
  log_warn(
      "channel {}: service {}: closed {}, stream {} of the other end: it took nothing and held the "
      "channel back{}",
      channel_, event.service, application, event.number, and_others(*hidden));
}

void ChannelLog::stream_stalled(const StreamStalled& event) {
  log_trace("channel {}: service {}: a stream waits: {}", channel_, event.service,
            stall_name(event.reason));
}

void ChannelLog::stream_unstalled(const StreamUnstalled& event) {
  log_trace("channel {}: service {}: a stream has waited {} us: {}", channel_, event.service,
            std::chrono::duration_cast<std::chrono::microseconds>(event.duration).count(),
            stall_name(event.reason));
}

// The line about the session stands for those of its streams.
void ChannelLog::stream_closed(const StreamClosed& event) {
  if (event.fault == Fault::kNone || fault_row(event.fault).scope == FaultScope::kSession) return;
  log_debug("channel {}: service {}: stream reset: {}", channel_, event.service,
            fault_text(event.fault));
}

// --- the state --------------------------------------------------------------------------------

void ChannelLog::changed(std::string state, LogLevel level) {
  state_ = std::move(state);
  level_ = level;
  if (summary_.armed() || !states_.allow(loop_.now())) {
    ++hidden_;
    if (!summary_.armed()) summary_.set(loop_.now() + std::chrono::seconds(1));
    return;
  }
  log_at(level_, "channel {}: {}", channel_, state_);
}

void ChannelLog::expired(Timer&) {
  const uint64_t before = std::exchange(hidden_, 0) - 1;
  log_at(level_, "channel {}: {}{}", channel_, state_,
         before > 0 ? " (and " + std::to_string(before) + " changes before)" : "");
}

}  // namespace virtproxy
