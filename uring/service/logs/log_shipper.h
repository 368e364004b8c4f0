// Ships lines to the service virtproxy.log of the other end.
//
//   sources ──▶ LogShipper ──▶ Shipper (core/logs) ──▶ LogStream ──▶ channel
//                                  │  ▲
//                     SpoolWriter ◀┘  └ SpoolFetcher
//
// It opens one stream whenever the channel is up, and another one after a pause when that one is
// over. All of it is of the thread of its channel, which it observes and outlives.
#pragma once

#include <array>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/logs/shipper.h"
#include "core/peer_backoff.h"
#include "uring/io/loop.h"
#include "uring/mux/observer.h"
#include "uring/mux/service_registry.h"
#include "uring/mux/stats.h"
#include "uring/service/logs/line_rate.h"
#include "uring/service/logs/log_stream.h"
#include "uring/service/logs/ship_start.h"
#include "uring/service/logs/spool_file.h"

namespace virtproxy {

class Channel;

namespace logs {

class LogShipper final : public ChannelObserver,
                         public StatSource,
                         private Opener,
                         private LogStream::Client,
                         private LineTarget,
                         private Loop::Deferred,
                         private Timer::Owner {
 public:
  // For the last writes and sync of a spool, after the flush time-out.
  static constexpr Duration kSyncLimit = std::chrono::seconds(2);

  // `start` is what was opened while there were privileges. Before Channel::start().
  LogShipper(Loop& loop, Channel& channel, ShipStart start);
  ~LogShipper();

  // Begins to read its sources.
  void start();

  // Reads what is left in the sources, and sends it; before Channel::drain(). stopped() becomes
  // true once everything is acknowledged, or the time-out is over: what is left is in the spool
  // then, or was dropped and counted.
  void stop();
  // The same without waiting for the other end.
  void stop_at_once();
  bool stopped() const { return phase_ == Phase::kStopped; }
  // Nothing of it is known to the kernel.
  bool idle() const;

  // Ages and rates are by monotonic time, as at the collecting end: a pause of the process counts.
  void visit_stats(StatVisitor& visitor, Instant now) const override;
  // One line for each source.
  void log_stats() const;

 private:
  enum class Phase : uint8_t {
    kRunning,
    kDraining,  // the sources
    kFlushing,  // what they gave
    kSyncing,   // the spool
    kStopped
  };
  enum class Link : uint8_t {
    kDown,     // there is no session
    kWaiting,  // until ask_at_
    kAsked,    // for a stream
    kOpen
  };
  struct SourceState {
    std::unique_ptr<LogSource> source;
    SourceSpec spec;
    double tokens = 0;  // of the rate limit
    Instant filled{};
    uint64_t reported = 0;  // lines dropped that were logged
    // When (monotonic) numbers were given, for the age of the oldest that is not acknowledged.
    std::deque<std::pair<uint64_t, Instant>> given;
    std::unique_ptr<LineRate> rate = std::make_unique<LineRate>();
    std::optional<Instant> blocked_since;
    Duration blocked_before{};  // in all, without the time since then
  };

  // ChannelObserver
  void session_up(const SessionUp& event) override;
  void session_silent(const SessionSilent& event) override;
  void session_down(const SessionDown& event) override;
  // Opener
  std::string_view service() const override { return kLogService; }
  std::unique_ptr<Endpoint> open(int client, StreamHandle& stream) override;
  void refuse(int client) override;
  // LogStream::Client
  void stream_began(LogStream& stream) override;
  StreamFault stream_input(std::span<const std::byte> bytes) override;
  void stream_takes_more() override { wakeup_.wake(); }
  void stream_over(Fault fault) override;
  // LineTarget
  bool offer(uint16_t source, const Line& line, uint64_t full_length) override;
  void lost_by_kernel(uint16_t source, uint64_t lines) override;
  bool blocked(uint16_t source) const override;
  UnixTime wall() const override { return wall_; }
  std::span<std::byte> scratch() override { return scratch_; }
  size_t max_line() const override { return max_line_; }
  LineSplitter::Held& held() override { return held_; }

  void run_deferred() override;
  void expired(Timer& timer) override;

  void ask_later(Duration delay);
  bool within_rate(SourceState& source);
  void pump();
  void unblock();
  void note_safe();
  void note_given();
  void note_blocked();
  void note_explained();
  void note_end();
  bool has_unreported_drops() const;
  // Logs what was dropped since the last report: by each source, by the spool and behind it.
  void report_drops();
  void go_on_stopping();
  void close_sources();
  void finish_stopping();
  void set_timer();
  bool all_acknowledged() const;
  uint64_t unacknowledged() const;
  uint64_t acknowledged(size_t source) const;
  Duration oldest_age(Instant now) const;
  static Duration oldest_age(const SourceState& source, Instant now);
  uint64_t spool_bytes() const;

  Loop& loop_;
  Channel& channel_;
  const ShipConfig config_;
  SpoolFile spool_file_;
  Shipper shipper_;
  std::optional<SpoolWriter> writer_;
  std::optional<SpoolFetcher> fetcher_;
  std::vector<SourceState> sources_;
  std::vector<std::byte> scratch_;
  const size_t max_line_;
  LineSplitter::Held held_;
  Wakeup wakeup_;
  Timer timer_;
  UnixTime wall_ = 0;

  Link link_ = Link::kDown;
  Instant ask_at_{};
  FaultBackoff backoff_;
  LogStream* stream_ = nullptr;
  bool missing_said_ = false;  // that the other end has no such service
  bool end_said_ = false;      // that all sources have ended
  bool greeted_ = false;       // on this stream

  Phase phase_ = Phase::kRunning;
  Instant deadline_{};
  bool closing_ = false;  // sources do not block any more

  // With a spool: numbers that are safe once it is written, or synced, up to the position.
  struct Pending {
    uint64_t position;
    std::vector<Mark> marks;
  };
  std::optional<Pending> pending_;
  Instant next_report_{};
  std::array<Tally, kDropReasons> explained_{};
  std::array<Tally, kDropReasons> explained_last_{};
  uint64_t explained_reported_ = 0;  // lines of explained_ that were logged
  uint64_t segments_reported_ = 0;   // of the spool, given up
};

}  // namespace logs
}  // namespace virtproxy
