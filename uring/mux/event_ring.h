// The last events of a process, for `virtproxyctl events`: what the log says of its channels, kept in
// memory.
//
//   Channel ──▶ EventRecorder, one a channel ──▶ EventRing ──▶ the control socket
//
// Bounded: the ring has kCapacity places, and of one kind a channel records kMostPerSecond. What is
// beyond that is counted, and the next event of the kind has the count. Refused clients are told
// apart as in the log (repeat_limit.h).
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "uring/base/log.h"
#include "uring/io/loop.h"
#include "uring/io/repeat_limit.h"
#include "uring/mux/observer.h"

namespace virtproxy {

// The order of kEventNames.
enum class EventKind : uint8_t {
  kUp,
  kSilent,
  kDown,
  kPeerDropped,
  kPeerRefused,
  kNoVersion,
  kGoingAway,
  kGlitch,
  kClientRefused,
  kClientReset,
  kServiceDown,
  kStreamRefused,
  kHeldBack,
  kListenerStalled,
  kListenerResumed,
};
inline constexpr std::array<std::string_view, 15> kEventNames{
    "up",           "silent",         "down",      "peer_dropped",     "peer_refused",
    "no_version",   "going_away",     "glitch",    "client_refused",   "client_reset",
    "service_down", "stream_refused", "held_back", "listener_stalled", "listener_resumed"};

struct ChannelEvent {
  uint64_t number = 0;  // of the process, from 1
  std::chrono::system_clock::time_point time{};
  EventKind kind{};
  std::string channel{};
  std::string service{};  // empty where it is about none
  std::string text{};     // for people
  uint64_t hidden = 0;    // events of this kind that were not recorded
  Counted hidden_are = Counted::kOthers;
};

// Any thread.
class EventRing {
 public:
  static constexpr size_t kCapacity = 1024;

  void add(ChannelEvent event);
  // Those behind number `after`, oldest first.
  std::vector<ChannelEvent> after(uint64_t after) const;

 private:
  mutable std::mutex mutex_;
  std::deque<ChannelEvent> events_;
  uint64_t last_ = 0;
};

class EventRecorder final : public ChannelObserver {
 public:
  static constexpr unsigned kMostPerSecond = 10;

  EventRecorder(EventRing& ring, Loop& loop, std::string channel);

  void session_up(const SessionUp& event) override;
  void session_silent(const SessionSilent& event) override;
  void session_down(const SessionDown& event) override;
  void peer_dropped(const PeerDropped& event) override;
  void peer_refused(const PeerRefused& event) override;
  void no_common_version(const NoCommonVersion& event) override;
  void peer_going_away() override;
  void glitch_seen(const GlitchSeen& event) override;
  void client_refused(const ClientRefused& event) override;
  void stream_refused(const StreamRefused& event) override;
  void connect_failed(const ConnectFailed& event) override;
  void stream_held_back(const StreamHeldBack& event) override;
  void stream_closed(const StreamClosed& event) override;
  void listener_stalled(const ListenerStalled& event) override;
  void listener_resumed(const ListenerResumed& event) override;

 private:
  ChannelEvent event_of(EventKind kind, std::string_view service, std::string_view text) const;
  void record(EventKind kind, std::string_view service, std::string_view text);

  EventRing& ring_;
  const Loop& loop_;
  const std::string channel_;
  RepeatLimit<ChannelEvent> refusals_;
  // By kind.
  std::array<RateLimit, kEventNames.size()> limits_ = limits(
      std::make_index_sequence<kEventNames.size()>());

  template <size_t... Places>
  static std::array<RateLimit, sizeof...(Places)> limits(std::index_sequence<Places...>) {
    return {((void)Places, RateLimit(kMostPerSecond, RateLimit::Of::kOther))...};
  }
};

}  // namespace virtproxy
