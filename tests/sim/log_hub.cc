#include "tests/sim/log_hub.h"

#include <algorithm>
#include <utility>

#include "uring/service/logs/log_collector.h"

namespace virtproxy::sim {

SimulatedHub::SimulatedHub(LogLedger& ledger, Process& process)
    : ledger_(ledger), process_(process), vm_(std::to_string(ledger.plan().channel)) {
  for (const logs::LogAccount& log : ledger_.restored()) refusals_.note(0, log);
}

std::vector<logs::LogAccount> SimulatedHub::restored(size_t) const {
  std::vector<logs::LogAccount> accounts = ledger_.restored();
  if (!accounts.empty() && accounts.back().sources.front().next.seq > 0 &&
      World::current().canary_strikes(Canary::kOldAccount, 1)) {
    logs::LogAccount& last = accounts.back();
    last.position = 0;
    for (logs::SourceAccount& source : last.sources) {
      logs::SourceAccount before;
      before.name = source.name;
      before.known = source.known;
      source = before;
    }
  }
  return accounts;
}

void SimulatedHub::submit(std::shared_ptr<Parcel> parcel) {
  if (over_ || process_.dead()) return;
  spoil(*parcel);
  if (World::current().canary_strikes(Canary::kAckEarly, 0.1)) {
    tell(*parcel);
    parcel->reply = nullptr;  // once
  }
  queue_.push_back(std::move(parcel));
  step_later();
}

void SimulatedHub::end() {
  if (std::exchange(over_, true)) return;
  queue_.clear();
  stored_.clear();
  committed_.clear();
  ledger_.end_host();
}

void SimulatedHub::step_later() {
  if (stepping_) return;
  stepping_ = true;
  World& world = World::current();
  const Duration slowest = ledger_.plan().longest_write;
  const auto longest = static_cast<uint64_t>(
      (world.healed() ? std::min<Duration>(slowest, milliseconds(10)) : slowest).count());
  const Duration delay(static_cast<Duration::rep>(ledger_.random().magnitude(1000, longest)));
  world.at(std::max(world.now() + delay, idle_until_), [this, alive = std::weak_ptr(alive_)] {
    if (alive.expired()) return;
    stepping_ = false;
    if (!over_) step();
  });
}

// Some of what waits goes one step further.
void SimulatedHub::step() {
  World& world = World::current();
  if (world.now() < idle_until_) return step_later();
  Random& random = ledger_.random();
  const auto some = [&](const auto& of) { return of.empty() ? 0 : random.below(of.size() + 1); };
  for (size_t count = some(committed_); count > 0; --count) {
    tell(*committed_.front());
    committed_.pop_front();
  }
  for (size_t count = some(stored_); count > 0; --count) {
    Parcel& parcel = *stored_.front();
    const logs::LogAccount lacking = parcel.account;
    refusals_.complete(parcel.vm, parcel.account);
    if (parcel.account != lacking && world.canary_strikes(Canary::kForgetRefusal, 1)) {
      parcel.account = lacking;
    }
    ledger_.commit(parcel);
    refusals_.settle(parcel);
    committed_.push_back(std::move(stored_.front()));
    stored_.pop_front();
  }
  for (size_t count = some(queue_); count > 0; --count) {
    ledger_.store(*queue_.front());
    refuse_some(*queue_.front());
    stored_.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  if (!queue_.empty() || !stored_.empty() || !committed_.empty()) step_later();
}

void SimulatedHub::refuse_some(Parcel& parcel) {
  if (ledger_.plan().refusals == 0) return;
  for (const ParcelRecord& record : parcel.records) {
    if (record.kind != ParcelRecord::Kind::kLine) continue;
    if (!ledger_.random().chance(ledger_.plan().refusals)) continue;
    refusals_.refuse(parcel, {record.source, record.seq, record.bytes});
    ledger_.refuse(parcel, record);
  }
}

void SimulatedHub::tell(const Parcel& parcel) const {
  World& world = World::current();
  if (parcel.reply == nullptr || world.canary_strikes(Canary::kLoseAck, 0.1)) return;
  ParcelRelease release{parcel.account.id, parcel.account.position, parcel.account.finished,
                        parcel.cost(), parcel.refused};
  if (world.canary_strikes(Canary::kAckBeyond, 0.1)) release.position += 1 << 20;
  const Process::Running running(process_);
  ReplyBox* const box = parcel.reply.get();
  box->mailbox.post([box, release = std::move(release)] {
    if (box->collector != nullptr) box->collector->released(release);
  });
}

// The canaries of accounting: what came from the receiver is not what the sink gets.
void SimulatedHub::spoil(Parcel& parcel) const {
  World& world = World::current();
  const auto first = [&](ParcelRecord::Kind kind) {
    return std::find_if(parcel.records.begin(), parcel.records.end(),
                        [kind](const ParcelRecord& record) { return record.kind == kind; });
  };
  const auto line = first(ParcelRecord::Kind::kLine);
  const auto drop = first(ParcelRecord::Kind::kDrop);
  const auto end = parcel.records.end();
  if (line != end && world.canary_strikes(Canary::kLoseLine, 0.1)) {
    parcel.records.erase(line);
  } else if (line != end && world.canary_strikes(Canary::kLineTwice, 0.1)) {
    parcel.records.insert(line, ParcelRecord(*line));
  } else if (drop != end && world.canary_strikes(Canary::kForgetDrop, 1)) {
    parcel.records.erase(drop);
  } else if (drop != end && world.canary_strikes(Canary::kMiscountDrop, 1)) {
    --drop->bytes;
  }
}

}  // namespace virtproxy::sim
