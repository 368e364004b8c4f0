// Counts what happens to a channel, for statistics. An observer of the channel, in its thread.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "uring/mux/observer.h"
#include "uring/mux/stall_total.h"
#include "uring/mux/stats.h"

namespace virtproxy {

// Whether the other end reads the channel, as far as that is known.
enum class Reading : uint8_t { kGoesOn, kStopped };

// The time for which it has not.
struct Unread {
  Reading reading = Reading::kGoesOn;
  Instant since{};  // of this state
  Duration before{};
  Duration until(Instant now) const {
    return reading == Reading::kStopped ? before + (now - since) : before;
  }
};

class ChannelCounters final : public ChannelObserver {
 public:
  ChannelCounters() : glitches_(glitch_rows().size()) {}

  // Knows the forwards of the channel from then on. Forwards of one name share their counters.
  void add_forward(const ForwardSpec& forward, StreamRole role);

  // The bytes of all streams of a forward, open and closed. The reference stays valid. A name that
  // is none of a forward has counters that are not shown.
  StreamBytes& bytes_of(std::string_view service) { return forward_of(service).bytes; }
  // What streams have waited for the channel; they add it up themselves.
  StallTotal& channel_waits() { return stalls_[static_cast<size_t>(StallReason::kChannel)]; }
  // While the other end does not read the channel, streams without credit wait for the channel.
  void note_reading(Reading reading, Instant now);
  const Unread& unread() const { return unread_; }
  bool credit_is_out() const;
  void count_closed_peer() { ++peers_refused_; }

  void session_down(const SessionDown& event) override;
  void no_common_version(const NoCommonVersion& event) override;
  void glitch_seen(const GlitchSeen& event) override;
  void client_refused(const ClientRefused& event) override;
  void stream_opened(const StreamOpened& event) override;
  void stream_refused(const StreamRefused& event) override;
  void service_connected(const ServiceConnected& event) override;
  void connect_failed(const ConnectFailed& event) override;
  void stream_stalled(const StreamStalled& event) override;
  void stream_unstalled(const StreamUnstalled& event) override;
  void stream_closed(const StreamClosed& event) override;
  void listener_stalled(const ListenerStalled& event) override;
  void listener_resumed(const ListenerResumed& event) override;

  // A forward whose listeners cannot accept.
  struct ListenerWait {
    std::string_view service;
    StallReason reason;
    Instant since;   // of the first of them
    Duration waited{};  // before that
  };
  void visit_listener_waits(const std::function<void(const ListenerWait&)>& visit) const;

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
    DurationHistogram connect_times;
    DurationHistogram durations;  // of streams that are over
    unsigned stalled_listeners = 0;
    ListenerWait listener_wait{};
  };

  Forward& forward_of(std::string_view service);

  std::map<std::string, Forward, std::less<>> forwards_;
  Forward unknown_;
  FaultCounts session_faults_;
  uint64_t peers_refused_ = 0;
  FaultCounts resets_;
  FaultCounts refused_streams_;
  std::vector<uint64_t> glitches_;  // by the place in glitch_rows()
  std::array<StallTotal, kStallReasons> stalls_{};
  StallTotal unread_credit_;  // waits for credit while the other end does not read the channel
  Unread unread_;
};

}  // namespace virtproxy
