// Counts what happens to a channel, for statistics. An observer of the channel, in its thread.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "uring/mux/observer.h"
#include "uring/mux/stats.h"

namespace virtproxy {

class ChannelCounters final : public ChannelObserver {
 public:
  ChannelCounters() : glitches_(glitch_rows().size()) {}

  // Knows the forwards of the channel from then on. Forwards of one name share their counters.
  void add_forward(const ForwardSpec& forward, StreamRole role);

  // The bytes of all streams of a forward, open and closed. The reference stays valid. A name that
  // is none of a forward has counters that are not shown.
  StreamBytes& bytes_of(std::string_view service) { return forward_of(service).bytes; }

  void session_down(const SessionDown& event) override;
  void no_common_version(const NoCommonVersion& event) override;
  void glitch_seen(const GlitchSeen& event) override;
  void client_refused(const ClientRefused& event) override;
  void stream_opened(const StreamOpened& event) override;
  void stream_refused(const StreamRefused& event) override;
  void connect_failed(const ConnectFailed& event) override;
  void stream_stalled(const StreamStalled& event) override;
  void stream_unstalled(const StreamUnstalled& event) override;
  void stream_closed(const StreamClosed& event) override;

  // `now` is the time up to which stalls that go on are counted.
  void visit_stats(StatVisitor& visitor, Instant now) const;

 private:
  // By the place of the fault in fault_rows().
  class FaultCounts {
   public:
    FaultCounts() : counts_(fault_rows().size()) {}
    uint64_t& operator[](const FaultRow& row) { return counts_[place(row)]; }
    uint64_t operator[](const FaultRow& row) const { return counts_[place(row)]; }

   private:
    static size_t place(const FaultRow& row) {
      return static_cast<size_t>(&row - fault_rows().data());
    }
    std::vector<uint64_t> counts_;
  };

  struct Forward {
    bool listens = false;
    bool offers = false;
    uint64_t opened = 0;
    StreamBytes bytes;
    std::array<uint64_t, kRefusalReasons> refused{};
    FaultCounts connect_failures;
  };
  // Stalls that go on are counted without looking at each: their number, and the sum of the times
  // when they began, in nanoseconds modulo 2^64.
  struct Stalls {
    uint64_t open = 0;
    uint64_t begun = 0;
    Duration over{};
  };

  Forward& forward_of(std::string_view service);

  std::map<std::string, Forward, std::less<>> forwards_;
  Forward unknown_;
  FaultCounts session_faults_;
  FaultCounts resets_;
  FaultCounts refused_streams_;
  std::vector<uint64_t> glitches_;  // by the place in glitch_rows()
  std::array<Stalls, kStallReasons> stalls_{};
};

}  // namespace virtproxy
