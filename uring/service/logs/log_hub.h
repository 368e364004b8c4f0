// The sinks of the process, in a thread of their own: writing a file may take long, and no channel
// waits for it.
//
//   LogCollector ── submit() ──▶ queue of its VM ─▶ ┌ one order of parcels ┐ ─▶ sink, account file
//   (a worker)   ◀── release ────────────────────── └ behind the slowest ──┘ ─▶ sink, account file
//
// With a spool it is between the queues and the order, which is read from it:
//
//   LogCollector ── submit() ──▶ queue of its VM ─▶ ParcelSpool ─▶ order of parcels ─▶ sinks
//   (a worker)   ◀── release ──────────────────────── ┘
//
// VMs have their turn by bytes (deficit round robin): what one of them has queued does not delay
// the others by more than one turn. The order has a bound in bytes, and so have the VMs together:
// a collector grants credit only while what it has submitted and not yet seen released is within
// vm_budget().
//
// A parcel is released once it is safe in every sink and, where a sink has an account file, its
// accounts are committed there; with a spool, once it is stored with its accounts. Then, and not
// before, the guest is acknowledged.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "uring/base/mailbox.h"
#include "uring/io/loop.h"
#include "uring/io/open_driver.h"
#include "uring/mux/stats.h"
#include "uring/net/resolver_driver.h"
#include "uring/service/logs/line_rate.h"
#include "uring/service/logs/log_sink.h"
#include "uring/service/logs/parcel_hub.h"
#include "uring/service/logs/parcel_spool.h"
#include "uring/service/logs/refusal_tally.h"
#include "uring/service/logs/sink_spec.h"

namespace virtproxy {

class LogHub final : public ParcelHub,
                     private Completion,
                     private Loop::Deferred,
                     private Timer::Owner,
                     private LogSink::Client {
 public:
  // Opens the sinks and their account files, with the user and the file system that the process
  // will have. `vms` are the labels of the channels, in the order of their numbers here.
  static tl::expected<std::unique_ptr<LogHub>, std::string> open(
      const std::vector<SinkSpec>& specs, const std::optional<logs::SpoolSpec>& spool,
      std::vector<std::string> vms, MadeFiles& made);
  ~LogHub();

  using Started = tl::expected<void, std::string>;
  // Starts the thread. No sink is started before go(), which a hub that was started needs.
  std::future<Started> start(DriverChoice choice, const DriverFeatures& features);
  void go() { go_.set_value(); }
  // After the collectors have ended. What is not safe by then will be sent again.
  void stop();
  // Once it has started.
  DriverKind driver() const { return driver_; }

  // ParcelHub
  void submit(std::shared_ptr<Parcel> parcel) override;
  size_t vm_budget() const override { return vm_budget_; }
  const std::string& vm(size_t index) const override { return vms_[index].name; }
  // Those that every sink has, or the spool.
  std::vector<logs::LogAccount> restored(size_t vm) const override { return restored_[vm]; }
  logs::AckLevel level() const override {
    return spool_ ? logs::AckLevel::kSpool : logs::AckLevel::kSink;
  }
  size_t vm_count() const { return vms_.size(); }

  // In any thread.
  void visit_stats(StatVisitor& visitor) const;

 private:
  // One sink, and how far it is in the order of parcels.
  struct Outlet {
    SinkSpec spec;
    std::unique_ptr<AccountFile> accounts;  // outlives the sink
    std::unique_ptr<LogSink> sink;
    std::shared_ptr<const SinkCounters> counters;
    // As they were at the start: what the sink had before.
    std::map<std::string, std::vector<logs::LogAccount>> had;
    uint64_t given = 0;      // parcels
    uint64_t committed = 0;  // … that are safe, with their accounts
    uint64_t refused = 0;    // lines of those, or a few more
    bool commit_failed = false;
    LineRate rate;                   // of lines that are safe
    std::atomic<int64_t> oldest{0};  // when the first one that is not was received; 0: none
  };
  struct Vm {
    std::string name;
    std::shared_ptr<ReplyBox> box;  // of its collector, once that has submitted anything
    std::deque<std::shared_ptr<Parcel>> queue;
    size_t deficit = 0;
    bool waiting = false;  // in waiting_
  };

  LogHub() : wake_op_(this) {}
  void run(std::promise<Started> started);
  Started set_up();
  int turn_until(const std::function<bool()>& done);
  int finish_spool();
  void complete(Op& op, Outcome outcome) override;
  void run_deferred() override;
  void sink_progressed() override { wake(); }
  void expired(Timer&) override { wake(); }
  void wake();
  std::vector<logs::LogAccount> common(size_t vm) const;
  std::vector<logs::LogAccount> with_spooled(size_t vm, std::vector<logs::LogAccount> sinks) const;
  void restore();
  bool has_place() const;
  void admit();
  void pass_spool();
  std::optional<size_t> number_of(const std::string& vm) const;
  void give(Outlet& outlet);
  void commit(Outlet& outlet);
  void release();
  static void reply(const Parcel& parcel, std::vector<Parcel::Refused> refused);
  void tell_refused(const Parcel& parcel);
  void note_oldest(Outlet& outlet);
  const logs::LogAccount* had(const Outlet& outlet, const Parcel& parcel) const;

  DriverChoice choice_{};
  DriverFeatures features_;
  DriverKind driver_{};
  std::vector<std::unique_ptr<Outlet>> outlets_;
  std::unique_ptr<ParcelSpool> spool_;
  // What the spool had at the start.
  std::map<std::string, std::vector<logs::LogAccount>> spooled_;
  std::vector<Vm> vms_;  // and those that are known from the spool alone
  std::vector<std::vector<logs::LogAccount>> restored_;  // by VM; what open() made of the files
  size_t vm_budget_ = 0;
  Mailbox mailbox_;
  std::promise<void> go_;
  std::thread thread_;

  // Owned by the thread.
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<ResolverDriver> resolver_;
  std::unique_ptr<Timer> retry_;  // of commits that failed
  Op wake_op_;
  uint64_t wake_count_ = 0;
  bool stopping_ = false;
  bool awake_ = false;
  std::deque<size_t> waiting_;  // VMs with parcels, in turn
  std::deque<std::shared_ptr<Parcel>> order_;
  uint64_t released_ = 0;  // parcels before the first of order_
  size_t order_bytes_ = 0;
  RefusalTally refusals_;
};

}  // namespace virtproxy
