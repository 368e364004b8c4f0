// Logs what happens to a channel, and holds back what a peer or a client can repeat as fast as it
// wants (repeat_limit.h): of each user, service and reason some lines a second, and then one a
// second with the number of those that were held back. What is held at the end is written then.
//
// Whether the channel is up is summed up instead: the last line about that is always the present
// state.
#pragma once

#include <string>
#include <utility>

#include "uring/base/log.h"
#include "uring/io/loop.h"
#include "uring/io/repeat_limit.h"
#include "uring/mux/observer.h"

namespace virtproxy {

class ChannelLog final : public ChannelObserver, private Timer::Owner {
 public:
  ChannelLog(Loop& loop, const std::string& channel);

  void listening(const ForwardSpec& forward) override;
  void transport_up() override;
  void transport_lost(const TransportLost& event) override;
  void session_up(const SessionUp& event) override;
  void session_silent(const SessionSilent& event) override;
  void session_down(const SessionDown& event) override;
  void peer_dropped(const PeerDropped& event) override;
  void no_common_version(const NoCommonVersion& event) override;
  void peer_going_away() override;
  void glitch_seen(const GlitchSeen& event) override;
  void client_refused(const ClientRefused& event) override;
  void stream_opened(const StreamOpened& event) override;
  void stream_refused(const StreamRefused& event) override;
  void connect_failed(const ConnectFailed& event) override;
  void stream_broken_off(const StreamBrokenOff& event) override;
  void stream_held_back(const StreamHeldBack& event) override;
  void stream_stalled(const StreamStalled& event) override;
  void stream_unstalled(const StreamUnstalled& event) override;
  void stream_closed(const StreamClosed& event) override;
  void listener_resumed(const ListenerResumed& event) override;

 private:
  static constexpr unsigned kStatesPerSecond = 20;

  // Completes "channel N: ".
  struct Line {
    LogLevel level;
    std::string text;
    std::string peer{};
    std::string_view reason{};
    std::string service{};  // where the text does not begin with it
  };
  using Lines = RepeatLimit<Line>;

  // `state` completes "channel N: ".
  void changed(std::string state, LogLevel level = LogLevel::kInfo, std::string peer = {},
               std::string_view reason = {});
  // `name` returns who the client is. It is called only where that is written.
  template <typename Name>
  void client_reset(std::string_view service, std::string_view text, Fault fault, Name&& name);
  void write(const Line& line, uint64_t count, Counted counted);
  void log_state(std::string_view more);
  void expired(Timer& timer) override;

  Loop& loop_;
  const std::string channel_;
  Timer summary_;
  std::string state_;
  LogLevel level_ = LogLevel::kInfo;
  std::string peer_;  // facts of the state
  std::string_view reason_;
  uint64_t hidden_ = 0;
  RateLimit states_{kStatesPerSecond};
  RateLimit versions_{2};
  // The last members: they write what they hold when they are destroyed. Each has subjects of its
  // own, because a crowd of users must not use up those of services, nor a peer either.
  Lines refusals_;
  Lines services_;
  Lines of_peer_;
};

}  // namespace virtproxy
