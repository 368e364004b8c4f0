#include "uring/mux/channel_log.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "core/peer_identity.h"
#include "uring/mux/service_registry.h"
#include "uring/net/address.h"
#include "uring/net/peer_identity.h"

namespace virtproxy {
namespace {

// Empty where nothing is known.
std::string known_name(const PeerIdentity& identity) {
  return identity.kind == PeerIdentity::Kind::kUnknown ? "" : describe(identity);
}

std::string client_of(std::span<const std::byte> encoded) {
  return known_name(decode_peer_identity(encoded).value_or(PeerIdentity{}));
}

// The application behind a descriptor.
std::string peer_of(int fd) { return fd < 0 ? "" : known_name(peer_identity_of(fd)); }

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
  changed(fmt::format("up, protocol {}{}; the other end is {}", event.protocol, event.description,
                      event.peer),
          LogLevel::kInfo, std::string(event.peer));
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
    case Silence::kHangsUp:
      // The state is still the one that the line before gave.
      return log_warn(
          "channel {}: the other end closes every connection at once and sends nothing: is this "
          "user or CID on its access list (--channel-allow-…)? Its log names whom it refuses",
          channel_);
  }
}

void ChannelLog::session_down(const SessionDown& event) {
  const std::string streams = event.streams == 0 ? ""
                              : event.streams == 1
                                  ? "; 1 stream is reset"
                                  : fmt::format("; {} streams are reset", event.streams);
  changed(fmt::format("down: {}{}", event.reason, streams), LogLevel::kInfo, {},
          fault_row(event.fault).name);
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
  const std::string peer = peer_of(event.fd);
  const RefusalRow& row = refusal_row(event.reason);
  const std::string text = listed ? fmt::format("{}{}{}", row.text, peer.empty() ? "" : ": ", peer)
                                  : peer + " is " + std::string(row.text);
  log_facts(LogLevel::kWarn, {.peer = peer, .reason = row.name},
            "channel {}: service {}: client refused: {}{}", channel_, event.service, text,
            and_others(*hidden));
}

void ChannelLog::stream_opened(const StreamOpened& event) {
  if (!log_enabled(LogLevel::kDebug)) return;
  const std::string client = client_of(event.client);
  const std::string_view name = client.empty() ? "unknown" : std::string_view(client);
  if (event.role == StreamRole::kOpener) {
    log_facts(LogLevel::kDebug, {.peer = client}, "channel {}: service {}: client {} came to {}",
              channel_, event.service, name,
              event.address == nullptr ? "this process" : event.address->to_string());
  } else {
    log_facts(LogLevel::kDebug, {.peer = client}, "channel {}: service {}: stream from {}",
              channel_, event.service, name);
  }
}

void ChannelLog::stream_refused(const StreamRefused& event) {
  if (event.fault != Fault::kUnknownService || !not_offered_.allow(loop_.now())) return;
  const std::string service = printable(event.service);
  // No -i takes the name of a service that is built in.
  std::string remedy = "-i " + service + ":…";
  if (event.service == kLogService) remedy = "--collect takes its log lines";
  if (event.service == kFarService) remedy = "--share-stats answers what it asks";
  log_warn("channel {}: the other end asks for service {}, which is not offered here ({})",
           channel_, service, remedy);
}

void ChannelLog::connect_failed(const ConnectFailed& event) {
  if (const auto hidden = connect_failures_.allow(loop_.now())) {
    log_facts(LogLevel::kWarn, {.reason = fault_row(event.fault).name},
              "channel {}: service {}: {}{}", channel_, event.service, event.reason,
              and_others(*hidden));
  }
}

void ChannelLog::stream_broken_off(const StreamBrokenOff& event) {
  constexpr std::string_view kText = "the application at the other end broke off";
  if (event.role == StreamRole::kOpener) {
    return client_reset(event.service, peer_of(event.fd), kText, Fault::kAborted);
  }
  log_debug("channel {}: service {}: {}", channel_, event.service, kText);
}

// The client is at this end, and does not know the reason.
void ChannelLog::client_reset(std::string_view service, const std::string& peer,
                              std::string_view text, Fault fault) {
  const auto hidden = client_resets_.allow(loop_.now());
  if (!hidden || !log_enabled(LogLevel::kInfo)) return;
  log_facts(LogLevel::kInfo, {.peer = peer, .reason = fault_row(fault).name},
            "channel {}: service {}: client{}{} is reset: {}{}", channel_, service,
            peer.empty() ? "" : " ", peer, text, and_others(*hidden));
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

// The line about the session stands for those of its clients, and a client that broke off itself
// knows.
void ChannelLog::stream_closed(const StreamClosed& event) {
  const FaultRow& row = fault_row(event.fault);
  const bool reset = event.fault != Fault::kNone;
  const bool told = !reset || row.scope == FaultScope::kSession || event.fault == Fault::kAborted ||
                    event.fault == Fault::kStalled;
  if (event.role == StreamRole::kOpener && !told) {
    client_reset(event.service, client_of(event.client), fault_text(event.fault), event.fault);
  }
  if (!log_enabled(LogLevel::kDebug)) return;
  const std::string peer = client_of(event.client);
  log_facts(LogLevel::kDebug,
            {.peer = peer,
             .reason = reset ? row.name : "",
             .sent = event.bytes.sent,
             .received = event.bytes.received,
             .duration = event.duration},
            "channel {}: service {}: stream {}{}: {} bytes sent, {} received, {:.3f} s", channel_,
            event.service, reset ? "reset: " : "ended", reset ? fault_text(event.fault) : "",
            event.bytes.sent, event.bytes.received, seconds_of(event.duration));
}

void ChannelLog::listener_resumed(const ListenerResumed& event) {
  log_facts(LogLevel::kInfo, {.duration = event.duration},
            "channel {}: service {}: accepts clients again, after {:.1f} s", channel_,
            event.service, seconds_of(event.duration));
}

// --- the state --------------------------------------------------------------------------------

void ChannelLog::changed(std::string state, LogLevel level, std::string peer,
                         std::string_view reason) {
  state_ = std::move(state);
  level_ = level;
  peer_ = std::move(peer);
  reason_ = reason;
  if (summary_.armed() || !states_.allow(loop_.now())) {
    ++hidden_;
    if (!summary_.armed()) summary_.set(loop_.now() + std::chrono::seconds(1));
    return;
  }
  log_state("");
}

void ChannelLog::log_state(std::string_view more) {
  log_facts(level_, {.peer = peer_, .reason = reason_}, "channel {}: {}{}", channel_, state_, more);
}

void ChannelLog::expired(Timer&) {
  const uint64_t before = std::exchange(hidden_, 0) - 1;
  log_state(before > 0 ? " (and " + std::to_string(before) + " changes before)" : "");
}

}  // namespace virtproxy
