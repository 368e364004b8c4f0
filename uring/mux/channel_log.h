// Logs what happens to a channel, and holds back what a peer or a client can repeat as fast as it
// wants: such lines are counted, and the next one that is written gives the count.
//
// Whether the channel is up is summed up instead: the last line about that is always the present
// state.
#pragma once

#include <string>
#include <utility>

#include "uring/base/log.h"
#include "uring/io/loop.h"
#include "uring/mux/observer.h"

namespace virtproxy {

class ChannelLog final : public ChannelObserver, private Timer::Owner {
 public:
  ChannelLog(Loop& loop, const std::string& channel)
      : loop_(loop), channel_(std::move(channel)), summary_(loop.timers(), this) {}

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

  // `state` completes "channel N: ".
  void changed(std::string state, LogLevel level = LogLevel::kInfo, std::string peer = {},
               std::string_view reason = {});
  void client_reset(std::string_view service, const std::string& peer, std::string_view text,
                    Fault fault);
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
  RateLimit refusals_{2};
  RateLimit not_allowed_{2};
  RateLimit not_offered_{2};
  RateLimit connect_failures_{10};
  RateLimit versions_{2};
  RateLimit glitches_{5};
  RateLimit departures_{2};
  RateLimit held_back_{5};
  RateLimit client_resets_{5};
};

}  // namespace virtproxy
