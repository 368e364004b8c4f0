#include "uring/service/logs/log_hub.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "core/assert.h"
#include "uring/base/clock.h"
#include "uring/base/log.h"
#include "uring/base/text.h"
#include "uring/service/logs/log_collector.h"

namespace virtproxy {
namespace {

// Bytes in the order of parcels, beside one parcel: what the slowest sink may be behind.
constexpr size_t kOrder = 8u << 20;
// Of one VM's turn, bytes.
constexpr size_t kQuantum = 128u << 10;
// For all VMs together, and for one of them.
constexpr size_t kAllVms = 128u << 20;
constexpr size_t kMostOfVm = 4u << 20;
constexpr size_t kLeastOfVm = 256u << 10;
constexpr Duration kLetGo = std::chrono::seconds(1);

constexpr StatInfo kRecords{
    "log_sink_records",
    "Lines and drop records that are safe in the sink, without those it refused",
    StatKind::kCounter};
constexpr StatInfo kBytes{"log_sink_text", "Bytes of the lines that are safe in the sink",
                          StatKind::kCounter, StatUnit::kBytes};
constexpr StatInfo kWritten{"log_sink_written", "Bytes written to the sink", StatKind::kCounter,
                            StatUnit::kBytes};
constexpr StatInfo kRate{"log_sink_rate",
                         "Lines a second that become safe in the sink, of the last 10 s or so"};
constexpr StatInfo kRejected{"log_sink_rejected", "Lines that the sink refused for good",
                             StatKind::kCounter};
constexpr StatInfo kFailures{"log_sink_failures", "Writes that failed and connections lost",
                             StatKind::kCounter};
constexpr StatInfo kUp{"log_sink_up", "1 if the sink takes lines, else 0"};
constexpr StatInfo kOldest{"log_sink_oldest_unacknowledged",
                           "How long the oldest line that is not safe in the sink has been here",
                           StatKind::kGauge, StatUnit::kSeconds};
constexpr StatInfo kSpoolSize{"log_spool_size", "Bytes of the collecting spool", StatKind::kGauge,
                              StatUnit::kBytes};
constexpr StatInfo kSpoolUsed{"log_spool_used",
                              "Bytes of the collecting spool that are not safe in all sinks yet",
                              StatKind::kGauge, StatUnit::kBytes};
constexpr StatInfo kSpoolUnwritten{"log_spool_unwritten",
                                   "Bytes for the collecting spool that are not written yet",
                                   StatKind::kGauge, StatUnit::kBytes};
constexpr StatInfo kSpoolFailures{"log_spool_failures",
                                  "Writes and syncs of the collecting spool that failed",
                                  StatKind::kCounter};
constexpr StatInfo kSpoolLost{"log_spool_lost_lines",
                              "Lines that could not be read again from the collecting spool",
                              StatKind::kCounter};

}  // namespace

tl::expected<std::unique_ptr<LogHub>, std::string> LogHub::open(
    const std::vector<SinkSpec>& specs, const std::optional<logs::SpoolSpec>& spool,
    std::vector<std::string> vms, MadeFiles& made) {
  std::unique_ptr<LogHub> hub(new LogHub());
  for (std::string& name : vms) hub->vms_.emplace_back().name = std::move(name);
  hub->vm_budget_ =
      std::clamp(kAllVms / std::max<size_t>(hub->vms_.size(), 1), kLeastOfVm, kMostOfVm);
  if (spool) {
    auto opened = ParcelSpool::open(*spool, made);
    if (!opened) return tl::unexpected("--collect-spool: " + opened.error());
    hub->spool_ = *std::move(opened);
    hub->spooled_ = hub->spool_->accounts();
    for (const auto& [vm, accounts] : hub->spooled_) {
      if (!hub->number_of(vm)) hub->vms_.emplace_back().name = vm;
    }
  }
  for (const SinkSpec& spec : specs) {
    auto outlet = std::make_unique<Outlet>();
    outlet->spec = spec;
    const auto failure = [&](const std::string& error) {
      return tl::unexpected<std::string>("--collect " + printable(spec.text) + ": " + error);
    };
    if (!spec.state.empty()) {
      auto accounts = AccountFile::open(spec.state, made);
      if (!accounts) return failure(accounts.error());
      outlet->accounts = std::make_unique<AccountFile>(*std::move(accounts));
      outlet->had = outlet->accounts->accounts();
    }
    auto sink = open_sink(spec, outlet->accounts.get(), made);
    if (!sink) return failure(sink.error());
    outlet->sink = *std::move(sink);
    outlet->counters = outlet->sink->shared_counters();
    hub->outlets_.push_back(std::move(outlet));
  }
  hub->restore();
  return hub;
}

LogHub::~LogHub() { VP_ASSERT(!thread_.joinable()); }

std::optional<size_t> LogHub::number_of(const std::string& vm) const {
  const auto found =
      std::find_if(vms_.begin(), vms_.end(), [&](const Vm& each) { return each.name == vm; });
  if (found == vms_.end()) return std::nullopt;
  return static_cast<size_t>(found - vms_.begin());
}

// Refusals are taken from all that was saved.
void LogHub::restore() {
  for (size_t vm = 0; vm < vms_.size(); ++vm) {
    const auto note_all = [&](const std::map<std::string, std::vector<logs::LogAccount>>& of) {
      const auto found = of.find(vms_[vm].name);
      if (found == of.end()) return;
      for (const logs::LogAccount& log : found->second) refusals_.note(vm, log);
    };
    for (const auto& outlet : outlets_) note_all(outlet->had);
    note_all(spooled_);
    std::vector<logs::LogAccount> sinks = common(vm);
    if (spool_) spool_->expect_after(vms_[vm].name, sinks);
    restored_.push_back(with_spooled(vm, std::move(sinks)));
    for (logs::LogAccount& log : restored_.back()) refusals_.complete(vm, log);
  }
}

// Sinks know more than the spool where they were written without it.
std::vector<logs::LogAccount> LogHub::with_spooled(size_t vm,
                                                   std::vector<logs::LogAccount> sinks) const {
  const auto spooled = spooled_.find(vms_[vm].name);
  if (spooled == spooled_.end()) return sinks;
  std::vector<logs::LogAccount> restored = spooled->second;
  for (logs::LogAccount& log : sinks) {
    const auto known = logs::find_log(restored, log.id);
    if (known != restored.end()) {
      if (known->position < log.position) *known = std::move(log);
    } else if (restored.size() < AccountFile::kLogs) {
      restored.push_back(std::move(log));
    }
  }
  return restored;
}

std::vector<logs::LogAccount> LogHub::common(size_t vm) const {
  std::vector<logs::LogAccount> restored;
  for (size_t i = 0; i < outlets_.size(); ++i) {
    const auto& had = outlets_[i]->had;
    const auto found = had.find(vms_[vm].name);
    if (outlets_[i]->accounts == nullptr || found == had.end()) return {};
    if (i == 0) {
      restored = found->second;
      continue;
    }
    // Of each log the account of the sink that is behind, and only of those that all have.
    std::vector<logs::LogAccount> common;
    for (logs::LogAccount& log : restored) {
      const auto other = logs::find_log(found->second, log.id);
      if (other == found->second.end()) continue;
      common.push_back(other->position < log.position ? *other : std::move(log));
    }
    restored = std::move(common);
  }
  return restored;
}

std::future<LogHub::Started> LogHub::start(DriverChoice choice, const DriverFeatures& features) {
  choice_ = choice;
  features_ = features;
  std::promise<Started> started;
  auto future = started.get_future();
  thread_ =
      std::thread([this, promise = std::move(started)]() mutable { run(std::move(promise)); });
  return future;
}

void LogHub::stop() {
  if (!thread_.joinable()) return;
  mailbox_.post([this] { stopping_ = true; });
  thread_.join();
}

LogHub::Started LogHub::set_up() {
  constexpr unsigned kInFlight = 256;
  auto opened = open_driver(choice_, kInFlight, features_);
  if (!opened) return tl::unexpected(opened.error());
  driver_ = opened->kind;
  loop_ = std::make_unique<Loop>(std::move(opened->driver));
  resolver_ = std::make_unique<ResolverDriver>(*loop_);
  Timer::Owner* const owner = this;
  retry_ = std::make_unique<Timer>(loop_->timers(), owner);
  loop_->driver().read(wake_op_, {mailbox_.fd(), -1}, &wake_count_, sizeof wake_count_);
  return {};
}

void LogHub::run(std::promise<Started> started) {
  Started result;
  try {
    result = set_up();
  } catch (const std::exception& error) {
    result = tl::unexpected<std::string>(error.what());
  }
  const bool good = result.has_value();
  started.set_value(std::move(result));
  go_.get_future().wait();
  if (!good) return;
  if (spool_) {
    spool_->start(*loop_, [this] { wake(); });
    wake();
  }
  LogSink::Client* const client = this;
  for (const auto& outlet : outlets_) outlet->sink->start(*loop_, *resolver_, client);
  int failure = 0;
  while (!stopping_ && failure == 0) failure = loop_->turn();
  if (failure == 0) {
    failure = finish_spool();
    loop_->driver().cancel(wake_op_);
    for (const auto& outlet : outlets_) outlet->sink->stop();
    if (spool_) spool_->stop();
    const auto idle = [&] {
      return !wake_op_.pending && (!spool_ || spool_->idle()) &&
             std::all_of(outlets_.begin(), outlets_.end(),
                         [](const auto& outlet) { return outlet->sink->idle(); });
    };
    if (failure == 0) failure = turn_until(idle);
    if (failure == 0 && idle()) {
      for (const auto& outlet : outlets_) outlet->sink.reset();
      if (spool_) spool_->end();
      retry_.reset();
      resolver_.reset();
      loop_.reset();
      return;
    }
  }
  log_error("log sinks: giving up: {}", std::strerror(failure == 0 ? ETIME : -failure));
  // What the kernel may still write to must not be freed: the process is about to end.
  for (const auto& outlet : outlets_) (void)outlet->sink.release();
  (void)spool_.release();
  (void)retry_.release();
  (void)resolver_.release();
  (void)loop_.release();
}

// For kLetGo. Returns 0 also where that was not enough, else what Loop::turn() returns.
int LogHub::turn_until(const std::function<bool()>& done) {
  const auto waited = loop_->turn_until(kLetGo, done);
  return waited ? 0 : waited.error();
}

// What was taken into the spool is on the disk when the process ends, if that is in time.
int LogHub::finish_spool() {
  if (!spool_) return 0;
  spool_->finish();
  return turn_until([&] { return spool_->finished(); });
}

void LogHub::submit(std::shared_ptr<Parcel> parcel) {
  mailbox_.post([this, parcel = std::move(parcel)] {
    Vm& vm = vms_[parcel->vm];
    vm.box = parcel->reply;
    vm.queue.push_back(parcel);
    if (!std::exchange(vm.waiting, true)) waiting_.push_back(parcel->vm);
    wake();
  });
}

void LogHub::wake() {
  if (std::exchange(awake_, true)) return;
  loop_->defer(this);
}

void LogHub::complete(Op&, Outcome) {
  mailbox_.run();
  if (!stopping_) {
    loop_->driver().read(wake_op_, {mailbox_.fd(), -1}, &wake_count_, sizeof wake_count_);
  }
}

void LogHub::run_deferred() {
  awake_ = false;
  if (stopping_) {
    if (spool_) spool_->work();
    return;
  }
  admit();
  if (spool_) pass_spool();
  for (const auto& outlet : outlets_) {
    give(*outlet);
    commit(*outlet);
    note_oldest(*outlet);
  }
  const size_t before = order_.size();
  release();
  // There may be room for more.
  if (order_.size() < before && (spool_ || !waiting_.empty())) wake();
}

bool LogHub::has_place() const { return spool_ ? spool_->has_room() : order_bytes_ < kOrder; }

// Deficit round robin: Shreedhar and Varghese, 1996.
void LogHub::admit() {
  while (!waiting_.empty() && has_place()) {
    Vm& vm = vms_[waiting_.front()];
    vm.deficit += kQuantum;
    while (!vm.queue.empty() && has_place()) {
      const size_t cost = vm.queue.front()->cost();
      if (cost > vm.deficit) break;
      vm.deficit -= cost;
      if (spool_) {
        spool_->put(std::move(vm.queue.front()), vm.name);
        spool_->work();
      } else {
        order_bytes_ += cost;
        order_.push_back(std::move(vm.queue.front()));
      }
      vm.queue.pop_front();
    }
    const size_t turn = waiting_.front();
    waiting_.pop_front();
    if (vm.queue.empty()) {
      vm.deficit = 0;
      vm.waiting = false;
    } else {
      waiting_.push_back(turn);
    }
  }
}

void LogHub::pass_spool() {
  spool_->work();
  for (const std::shared_ptr<Parcel>& parcel : spool_->take_stored()) reply(*parcel, {});
  while (order_bytes_ < kOrder) {
    auto found = spool_->next();
    if (!found) break;
    Parcel& parcel = *found->parcel;
    const auto vm = number_of(found->vm);
    if (!vm) {
      log_error("the spool has lines of {}, of which there is no account: they are left out",
                printable(found->vm));
      parcel.records.clear();
      parcel.account.sources.clear();
    }
    parcel.vm = vm.value_or(0);
    const auto age = std::chrono::system_clock::now().time_since_epoch() -
                     std::chrono::nanoseconds(parcel.received);
    parcel.arrived =
        monotonic_now() - std::max(Duration::zero(), std::chrono::duration_cast<Duration>(age));
    order_bytes_ += parcel.cost();
    order_.push_back(std::move(found->parcel));
  }
}

const logs::LogAccount* LogHub::had(const Outlet& outlet, const Parcel& parcel) const {
  const auto vm = outlet.had.find(vms_[parcel.vm].name);
  if (vm == outlet.had.end()) return nullptr;
  const auto log = logs::find_log(vm->second, parcel.account.id);
  return log == vm->second.end() ? nullptr : &*log;
}

void LogHub::give(Outlet& outlet) {
  // One flush at most is ahead of the account file.
  if (outlet.commit_failed) return;
  while (outlet.given < released_ + order_.size() && outlet.sink->has_room()) {
    const Parcel& parcel = *order_[outlet.given - released_];
    outlet.sink->take({vms_[parcel.vm].name, parcel, had(outlet, parcel)});
    ++outlet.given;
  }
  outlet.sink->flush();
  // A sink that writes at once has room again.
  if (outlet.given < released_ + order_.size() && outlet.sink->has_room()) wake();
}

void LogHub::commit(Outlet& outlet) {
  for (const RefusedLine& line : outlet.sink->take_refused()) {
    refusals_.refuse(*order_[line.parcel - released_], {line.source, line.seq, line.bytes});
  }
  const uint64_t safe = outlet.sink->safe();
  if (safe == outlet.committed) return;
  if (outlet.accounts != nullptr) {
    std::vector<AccountFile::Change> changes;
    // Of each log the last account counts.
    for (uint64_t i = safe; i > outlet.committed; --i) {
      Parcel& parcel = *order_[i - 1 - released_];
      if (parcel.account.sources.empty()) continue;
      const std::string& vm = vms_[parcel.vm].name;
      const bool known = std::any_of(changes.begin(), changes.end(), [&](const auto& change) {
        return change.vm == vm && change.account.id == parcel.account.id;
      });
      if (known) continue;
      // A spool gives again what the sink had before this process began.
      const logs::LogAccount* const before = had(outlet, parcel);
      const auto progress = [](const logs::LogAccount& log) {
        return std::pair(log.position, log.finished);
      };
      if (before == nullptr || progress(*before) < progress(parcel.account)) {
        refusals_.complete(parcel.vm, parcel.account);
        changes.push_back({vm, parcel.account});
      }
    }
    std::reverse(changes.begin(), changes.end());
    const bool written = outlet.accounts->commit(outlet.sink->note(), changes) &&
                         (!outlet.spec.sync || outlet.accounts->sync());
    if (!written) {
      if (!std::exchange(outlet.commit_failed, true)) {
        log_error("{}: {}: lines wait until it can be written again", printable(outlet.spec.state),
                  std::strerror(errno));
      }
      retry_->set(loop_->now() + kFileRetry);
      return;
    }
    if (std::exchange(outlet.commit_failed, false)) {
      log_info("{}: written again", printable(outlet.spec.state));
      wake();
    }
  }
  uint64_t records = 0;
  uint64_t bytes = 0;
  for (; outlet.committed < safe; ++outlet.committed) {
    const Parcel& parcel = *order_[outlet.committed - released_];
    records += parcel.records.size();
    bytes += parcel.text.size();
  }
  SinkCounters& counters = outlet.sink->counters();
  // Some may be of parcels that are not safe yet: a count of what is safe never falls.
  const uint64_t refused = std::min(records, counters.rejected - outlet.refused);
  outlet.refused += refused;
  counters.lines.fetch_add(records - refused, std::memory_order_relaxed);
  counters.bytes.fetch_add(bytes, std::memory_order_relaxed);
  outlet.rate.note(outlet.counters->lines, monotonic_now());
}

void LogHub::note_oldest(Outlet& outlet) {
  const size_t place = outlet.committed - released_;
  outlet.oldest = place < order_.size() ? order_[place]->arrived.count() : 0;
}

void LogHub::release() {
  uint64_t safe = released_ + order_.size();
  for (const auto& outlet : outlets_) safe = std::min(safe, outlet->committed);
  for (; released_ < safe; ++released_) {
    const std::shared_ptr<Parcel> parcel = std::move(order_.front());
    order_.pop_front();
    order_bytes_ -= parcel->cost();
    refusals_.settle(*parcel);
    if (spool_) {
      spool_->release();
      tell_refused(*parcel);
    } else {
      reply(*parcel, std::move(parcel->refused));
    }
  }
}

void LogHub::reply(const Parcel& parcel, std::vector<Parcel::Refused> refused) {
  ParcelRelease release{parcel.account.id, parcel.account.position, parcel.account.finished,
                        parcel.cost(), std::move(refused)};
  ReplyBox* const box = parcel.reply.get();
  box->mailbox.post([box, release = std::move(release)] {
    if (box->collector != nullptr) box->collector->released(release);
  });
}

// The guest was acknowledged before.
void LogHub::tell_refused(const Parcel& parcel) {
  ReplyBox* const box = vms_[parcel.vm].box.get();
  if (parcel.refused.empty() || box == nullptr) return;
  box->mailbox.post([box, log = parcel.account.id, refused = parcel.refused] {
    if (box->collector != nullptr) box->collector->refused(log, refused);
  });
}

void LogHub::visit_stats(StatVisitor& visitor) const {
  if (spool_) {
    const ParcelSpool::Counters& counters = spool_->counters();
    visitor.visit(kSpoolSize, {spool_->file_size(), {}});
    visitor.visit(kSpoolUsed, {counters.used, {}});
    visitor.visit(kSpoolUnwritten, {counters.unwritten, {}});
    visitor.visit(kSpoolFailures, {counters.failures, {}});
    visitor.visit(kSpoolLost, {counters.lost_lines, {}});
  }
  const Instant now = monotonic_now();
  for (const auto& outlet : outlets_) {
    const std::string name = outlet->spec.label();
    const StatLabel label{"sink", name};
    const auto visit = [&](const StatInfo& info, uint64_t value) {
      visitor.visit(info, {value, {}, {&label, 1}});
    };
    const SinkCounters& counters = *outlet->counters;
    visit(kUp, counters.up ? 1 : 0);
    visit(kRecords, counters.lines);
    visit(kBytes, counters.bytes);
    visit(kWritten, counters.written);
    visit(kRejected, counters.rejected);
    visit(kRate, outlet->rate.per_second(now));
    visit(kFailures, counters.failures);
    const int64_t oldest = outlet->oldest;
    visit(kOldest,
          oldest == 0 ? 0 : static_cast<uint64_t>(std::max<int64_t>(0, now.count() - oldest)));
  }
}

}  // namespace virtproxy
