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

std::string client_of(std::span<const std::byte> encoded) {
  return known_name(decode_peer_identity(encoded).value_or(PeerIdentity{}));
}

constexpr RepeatRule kClientLines{2, std::chrono::seconds(1)};
constexpr RepeatRule kServiceLines{5, std::chrono::seconds(1)};

}  // namespace

ChannelLog::ChannelLog(Loop& loop, const std::string& channel)
    : loop_(loop),
      channel_(channel),
      summary_(loop.timers(), this),
      refusals_(loop, kClientLines, [this](const auto&... line) { write(line...); }),
      services_(loop, kServiceLines, [this](const auto&... line) { write(line...); }),
      of_peer_(loop, kServiceLines, [this](const auto&... line) { write(line...); }) {}

void ChannelLog::write(const Line& line, uint64_t count, Counted counted) {
  log_facts(line.level, {.service = line.service, .peer = line.peer, .reason = line.reason},
            "channel {}: {}{}", channel_, line.text, and_counted(count, counted));
}

// --- the transport and the session ------------------------------------------------------------

void ChannelLog::listening(const ForwardSpec& forward) {
  log_facts(LogLevel::kInfo, {.service = forward.service},
            "channel {}: listening on {} for service {}", channel_, forward.address.to_string(),
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
  changed(fmt::format("down: {}{}", event.reason, reset_text(event.streams)), LogLevel::kInfo, {},
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
  of_peer_.report("going away", [] {
    return Line{LogLevel::kInfo, "the other end is going away"};
  });
}

void ChannelLog::glitch_seen(const GlitchSeen& event) {
  const GlitchRow& row = glitch_row(event.glitch);
  if (row.expected) {
    log_debug("channel {}: the other end sent {} ({}): {}", channel_, row.text, event.count,
              row.outcome);
  } else {
    of_peer_.report(row.text, [&] {
      return Line{LogLevel::kWarn, fmt::format("the other end sent {} ({}): {}", row.text,
                                               event.count, row.outcome)};
    });
  }
}

// --- clients and streams ----------------------------------------------------------------------

void ChannelLog::client_refused(const ClientRefused& event) {
  refusals_.report(refusal_subject(event), [&] {
    std::string name = known_name(peer_identity_of(event.fd));
    std::string text = fmt::format("service {}: client refused: {}", event.service,
                                   refusal_text(event.reason, name));
    return Line{LogLevel::kWarn, std::move(text), std::move(name), refusal_row(event.reason).name};
  });
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
  if (event.fault != Fault::kUnknownService) return;
  // Of all services together: the peer can make up as many names as it wants.
  of_peer_.report("not offered", [&] {
    const std::string service = printable(event.service);
    // No -i takes the name of a service that is built in.
    std::string remedy = "-i " + service + ":…";
    if (event.service == kLogService) remedy = "--collect takes its log lines";
    if (event.service == kFarService) remedy = "--share-stats answers what it asks";
    return Line{LogLevel::kWarn,
                fmt::format("the other end asks for service {}, which is not offered here ({})",
                            service, remedy),
                {},
                "not_offered",
                service};
  });
}

void ChannelLog::connect_failed(const ConnectFailed& event) {
  std::string text = fmt::format("service {}: {}", event.service, event.reason);
  services_.report(text, [&] {
    return Line{LogLevel::kWarn, text, {}, fault_row(event.fault).name};
  });
}

// The client is at this end, and does not know the reason.
template <typename Name>
void ChannelLog::client_reset(std::string_view service, std::string_view text, Fault fault,
                              Name&& name) {
  if (!log_enabled(LogLevel::kInfo)) return;
  services_.report(fmt::format("{}: reset: {}", service, text), [&] {
    const std::string client = name();
    return Line{LogLevel::kInfo,
                fmt::format("service {}: client{}{} is reset: {}", service,
                            client.empty() ? "" : " ", client, text),
                client, fault_row(fault).name};
  });
}

void ChannelLog::stream_broken_off(const StreamBrokenOff& event) {
  constexpr std::string_view kText = "the application at the other end broke off";
  if (event.role == StreamRole::kOpener && !is_built_in(event.service)) {
    return client_reset(event.service, kText, Fault::kAborted,
                        [&] { return known_name(peer_identity_of(event.fd)); });
  }
  log_debug("channel {}: service {}: {}", channel_, event.service, kText);
}

void ChannelLog::stream_held_back(const StreamHeldBack& event) {
  services_.report(fmt::format("{}: held back", event.service), [&] {
    const std::string application = event.role == StreamRole::kAcceptor
                                        ? "the connection to it"
                                        : "the client from " + describe(peer_identity_of(event.fd));
    return Line{LogLevel::kWarn,
                fmt::format("service {}: closed {}, stream {} of the other end: it took nothing "
                            "and held the channel back",
                            event.service, application, event.number)};
  });
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
// knows. A client that is part of this daemon has lines of its own.
void ChannelLog::stream_closed(const StreamClosed& event) {
  const FaultRow& row = fault_row(event.fault);
  const bool reset = event.fault != Fault::kNone;
  const bool told = !reset || row.scope == FaultScope::kSession || event.fault == Fault::kAborted ||
                    event.fault == Fault::kStalled || is_built_in(event.service);
  if (event.role == StreamRole::kOpener && !told) {
    client_reset(event.service, fault_text(event.fault), event.fault,
                 [&] { return client_of(event.client); });
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
