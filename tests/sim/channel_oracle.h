// What the oracles are told by a channel of a daemon: it observes the channel as the log does.
#pragma once

#include <map>
#include <utility>

#include "tests/sim/world.h"
#include "uring/mux/channel.h"
#include "uring/mux/observer.h"

namespace virtproxy::sim {

class ChannelOracle final : public ChannelObserver {
 public:
  // `process` is the number of the daemon's process, `number` that of the channel.
  ChannelOracle(unsigned process, unsigned number, Channel& channel)
      : process_(process), channel_(number), broken_(channel) {}

  void session_up(const SessionUp& event) override;
  void session_down(const SessionDown& event) override;
  void no_common_version(const NoCommonVersion& event) override;
  void stream_opened(const StreamOpened& event) override;
  void stream_held_back(const StreamHeldBack& event) override;
  void stream_stalled(const StreamStalled& event) override;
  void stream_unstalled(const StreamUnstalled& event) override;
  void stream_closed(const StreamClosed& event) override;

  // Streams that were opened and are not closed.
  size_t open_streams() const { return streams_.size(); }

 private:
  struct Open {
    unsigned stalls = 0;  // a bit for each StallReason
  };
  Open& open_stream(StreamKey stream);
  void check_end_of_log_stream(Fault fault) const;

  const unsigned process_;
  const unsigned channel_;
  Channel& broken_;                                        // by canaries alone
  std::map<std::pair<uint32_t, uint32_t>, Open> streams_;  // by slot and generation
};

}  // namespace virtproxy::sim
