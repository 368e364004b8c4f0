// The hub of a simulated host's daemon: what LogHub, its sinks and its files of accounts are to a
// collector, without their thread. Parcels are stored one behind the other and committed some time
// later; then the collector is told. What outlives the daemon is the ledger's.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/log_ledger.h"
#include "tests/sim/process.h"
#include "uring/service/logs/parcel_hub.h"
#include "uring/service/logs/refusal_tally.h"

namespace virtproxy::sim {

class SimulatedHub final : public ParcelHub {
 public:
  SimulatedHub(LogLedger& ledger, Process& process);

  // ParcelHub
  void submit(std::shared_ptr<Parcel> parcel) override;
  size_t vm_budget() const override { return ledger_.plan().budget; }
  const std::string& vm(size_t) const override { return vm_; }
  std::vector<logs::LogAccount> restored(size_t) const override;
  logs::AckLevel level() const override { return ledger_.plan().level; }

  // Its process does not run until then.
  void stand_still(Instant until) { idle_until_ = std::max(idle_until_, until); }
  // Its process is over, or about to end: nothing more is stored, committed or told.
  void end();

 private:
  void step_later();
  void step();
  void refuse_some(Parcel& parcel);
  void tell(const Parcel& parcel) const;
  void spoil(Parcel& parcel) const;

  LogLedger& ledger_;
  Process& process_;
  const std::string vm_;
  RefusalTally refusals_;
  bool over_ = false;
  bool stepping_ = false;
  Instant idle_until_{};
  std::deque<std::shared_ptr<Parcel>> queue_;      // not stored
  std::deque<std::shared_ptr<Parcel>> stored_;     // … and not committed
  std::deque<std::shared_ptr<Parcel>> committed_;  // … and not told of
  std::shared_ptr<int> alive_ = std::make_shared<int>();
};

}  // namespace virtproxy::sim
