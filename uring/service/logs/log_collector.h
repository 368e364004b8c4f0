// The service virtproxy.log of one channel: ends the log stream of its VM, and hands what arrives
// to the hub (parcel_hub.h). The VM's name is the channel's label, whatever the guest says.
//
//   LogStream ── bytes ─▶ Receiver ── records ─▶ Parcel ─▶ ParcelHub
//       ◀── WANT, ACK ──────┘        ◀── released() ─────────┘
//
// One stream at a time: logs of one sender follow one another. A stream that breaks the protocol is
// reset, and the VM's next one is refused for a time that doubles; its account stays as it is.
//
// Bytes are read only while the VM has less under way than the hub's budget; what has arrived by
// then is bounded by the stream's window.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/logs/receiver.h"
#include "uring/base/log.h"
#include "uring/io/loop.h"
#include "uring/mux/service_registry.h"
#include "uring/service/logs/line_rate.h"
#include "uring/service/logs/parcel_hub.h"

namespace virtproxy {

class LogCollector final : public Service,
                           private Completion,
                           private Loop::Deferred,
                           private Timer::Owner {
 public:
  // `vm` is the number of the channel's label in the hub, which outlives this.
  LogCollector(Loop& loop, ParcelHub& hub, size_t vm);
  ~LogCollector();

  tl::expected<std::unique_ptr<Endpoint>, Fault> open(StreamHandle& stream,
                                                      std::span<const std::byte>) override;
  void visit_stats(StatVisitor& visitor) const override;

  // Takes no more bytes. The stream's output ends behind the acknowledgement of what was taken; a
  // sender resets the stream then. Otherwise it ends with its session.
  void drain();
  // Cancels what is under way; idle() when the kernel refers to nothing of this any more.
  void stop();
  bool idle() const { return !wake_op_.pending; }

  // In this thread, through the reply box.
  void released(const ParcelRelease& release);
  // Lines of a log that a sink refused for good.
  void refused(const logs::LogId& log, const std::vector<Parcel::Refused>& lines);

 private:
  class Stream;

  // How far a log is safe in all sinks.
  struct Safe {
    logs::LogId log;
    uint64_t position = 0;
  };

  void complete(Op& op, Outcome outcome) override;
  void run_deferred() override;
  void expired(Timer& timer) override;
  // Feeds the receiver as far as the budget goes.
  void work();
  void take(std::span<const std::byte> bytes);
  void pass_on(const std::vector<logs::Received>& found, const logs::LogId& oldest);
  void on_begun();
  void report(const logs::Received& received);
  void break_off(logs::StreamFault fault);
  void count(const logs::Received& received);
  void count_dropped(const logs::DropRecord& drop);
  // Logs what the other end has dropped since the last time.
  void report_dropped();
  bool has_budget() const { return held_ < hub_.vm_budget(); }

  Loop& loop_;
  ParcelHub& hub_;
  const size_t vm_;
  const std::string& label_;
  logs::Receiver receiver_;
  std::vector<Safe> safe_;  // of the logs that the receiver knows
  std::shared_ptr<ReplyBox> box_;
  Op wake_op_;
  uint64_t wake_count_ = 0;
  Wakeup wakeup_;
  Stream* stream_ = nullptr;  // the one that is open
  size_t held_ = 0;           // memory of parcels that are not released, bytes
  enum class State : uint8_t { kServing, kDraining, kStopped } state_ = State::kServing;
  Instant refused_until_{};
  Duration backoff_{};
  uint64_t given_ = 0;  // parcels submitted and not released
  std::vector<logs::Received> found_;
  RateLimit unaccounted_limit_{5};
  Timer report_timer_;
  Instant next_report_{};
  std::array<logs::Tally, logs::kDropReasons> reported_{};  // of dropped_

  // Since the start, of all logs together.
  logs::Tally received_;
  LineRate rate_;  // of them
  logs::Tally delivered_;
  std::array<logs::Tally, logs::kDropReasons> dropped_{};
  logs::Tally unaccounted_;
  uint64_t faults_ = 0;
  uint64_t refused_ = 0;
};

}  // namespace virtproxy
