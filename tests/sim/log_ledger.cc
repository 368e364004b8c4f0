#include "tests/sim/log_ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/logs/batch.h"
#include "uring/service/logs/account_file.h"

namespace virtproxy::sim {
namespace {

constexpr uint64_t kLineCost = 512;  // beside its bytes, in the guest's memory, at most

}  // namespace

std::string log_path(size_t source) { return fmt::format("/sim/log{}", source); }

LogLedger::LogLedger(const LogPlan& plan, uint64_t seed) : plan_(plan), random_(seed) {
  if (!plan_.spool) return;
  disk_ = std::make_unique<Disk>(logs::spool_geometry_for(*plan_.spool)->file_size());
}

void LogLedger::Counts::add(const Counts& other) {
  worlds += other.worlds;
  written += other.written;
  delivered += other.delivered;
  dropped += other.dropped;
  again += other.again;
  refused += other.refused;
  told += other.told;
  lost += other.lost;
  streams += other.streams;
  resumed += other.resumed;
  blocked += other.blocked;
  spooled += other.spooled;
}

LogLedger::Counts LogLedger::counts() const {
  Counts counts = counts_;
  counts.worlds = 1;
  for (const Log& log : logs_) {
    for (const Source& source : log.sources) {
      counts.written += source.lines.size();
      counts.lost += source.progress.numbered - std::min(source.progress.numbered, source.stored);
    }
  }
  return counts;
}

// --- the guest
// ------------------------------------------------------------------------------------

logs::LogId LogLedger::begin_log() {
  if (!logs_.empty() && logs_.back().end == Log::End::kNone) {
    World::current().fail("logs", "a daemon ships while another one does");
  }
  told_ = 0;
  Log& log = logs_.emplace_back();
  log.id = {random_.next(), random_.next()};
  log.sources.resize(plan_.sources.size());
  // A spool does not let that happen: it knows the logs that it has.
  if (logs_.size() > 1 && !disk_ && World::current().canary_strikes(Canary::kReuseLog, 1)) {
    return logs_[logs_.size() - 2].id;
  }
  return log.id;
}

void LogLedger::begin_line(size_t life, uint16_t source, std::string text) {
  Log& log = logs_[life - 1];
  Source& of = log.sources[source];
  log.cost += text.size() + kLineCost;
  of.bytes_before.push_back(of.bytes_before.back() + text.size());
  of.lines.push_back({std::move(text)});
}

void LogLedger::complete_line(size_t life, uint16_t source) {
  logs_[life - 1].sources[source].lines.back().complete = true;
}

bool LogLedger::has_numbered_all(size_t life, uint16_t source) const {
  const Source& of = logs_[life - 1].sources[source];
  return of.progress.numbered == of.lines.size();
}

std::string LogLedger::name(const Log& log, const Source& source) const {
  return fmt::format("log {}, source {}", &log - logs_.data() + 1, &source - log.sources.data());
}

void LogLedger::check_progress(size_t life, uint16_t source, const Progress& progress) {
  const Log& log = logs_[life - 1];
  Source& of = logs_[life - 1].sources[source];
  World& world = World::current();
  if (progress.numbered > of.lines.size()) {
    world.fail("logs", fmt::format("{}: {} numbers for {} lines", name(log, of), progress.numbered,
                                   of.lines.size()));
  }
  if (progress.acknowledged > of.safe) {
    world.fail("logs", fmt::format("{}: {} numbers are acknowledged, and {} are safe",
                                   name(log, of), progress.acknowledged, of.safe));
  }
  of.progress = progress;
}

// A line that comes again may be refused again, and counts each time.
void LogLedger::check_refused(uint64_t told) {
  counts_.told += told - std::min(told, std::exchange(told_, told));
  if (counts_.told <= counts_.refused) return;
  World::current().fail(
      "logs", fmt::format("{} lines are said to be refused, and the sink refused {}", counts_.told,
                          counts_.refused));
}

std::vector<uint64_t> LogLedger::numbered_in(std::span<const std::byte> file,
                                             const Log& log) const {
  std::vector<uint64_t> numbered(log.sources.size());
  const uint64_t key = logs::check_key(log.id);
  for (auto rest = file; !rest.empty(); rest = rest.subspan(logs::next_batch_start(rest))) {
    logs::BatchHeader header;
    logs::BatchExtent extent;
    if (logs::open_batch(rest, key, header, extent) != logs::BatchFault::kNone) continue;
    uint64_t& of = numbered.at(header.source);
    of = std::max(of, extent.end.seq);
  }
  return numbered;
}

void LogLedger::end_log(size_t life, bool late) {
  Log& log = logs_[life - 1];
  if (log.end != Log::End::kNone) return;
  log.end = Log::End::kStopped;
  if (!disk_) return;
  const std::vector<uint64_t> numbered = numbered_in(disk_->seen(), log);
  for (size_t i = 0; i < numbered.size(); ++i) {
    Source& source = log.sources[i];
    source.due = std::max(numbered[i], source.safe);
    if (late || disk_->failed() || may_be_short(log)) continue;
    if (source.due == source.progress.numbered) continue;
    World::current().fail(
        "logs", fmt::format("{}: {} numbers, and {} in the spool at its end", name(log, source),
                            source.progress.numbered, source.due));
  }
}

// Only what was synced outlives the machine, of earlier lives as well.
void LogLedger::kill_log(size_t life) {
  Log& killed = logs_[life - 1];
  killed.end = Log::End::kKilled;
  if (!disk_) return;
  const bool power = random_.chance(0.5);
  for (Log& log : logs_) {
    if (!power && &log != &killed) continue;
    const auto numbered = numbered_in(power ? disk_->promised() : disk_->seen(), log);
    for (size_t i = 0; i < numbered.size(); ++i) {
      uint64_t& due = log.sources[i].due;
      due = &log == &killed ? numbered[i] : std::min(due, numbered[i]);
    }
    log.power_lost = log.power_lost || power;
  }
  if (!power) return;
  World::current().count(Mishap::kPowerLost);
  disk_->lose_power(random_);
}

bool LogLedger::settled() const {
  return !logs_.empty() && std::all_of(logs_.back().sources.begin(), logs_.back().sources.end(),
                                       [](const Source& source) {
                                         return source.progress.acknowledged == source.lines.size();
                                       });
}

void LogLedger::check_settled() const {
  for (const Log& log : logs_) {
    for (const Source& source : log.sources) {
      if (source.safe >= source.due) continue;
      World::current().fail("logs", fmt::format("{}: {} numbers were in the spool, and {} are safe",
                                                name(log, source), source.due, source.safe));
    }
  }
  for (const Source& source : logs_.back().sources) {
    const uint64_t lines = source.lines.size();
    if (source.progress.numbered == lines && source.safe == lines &&
        source.progress.acknowledged == lines) {
      continue;
    }
    World::current().fail("logs",
                          fmt::format("{}: of {} lines {} are numbered, {} safe, {} acknowledged",
                                      name(logs_.back(), source), lines, source.progress.numbered,
                                      source.safe, source.progress.acknowledged));
  }
}

void LogLedger::note_stream(size_t life) {
  ++counts_.streams;
  const Log& log = logs_[life - 1];
  const bool resumed = std::any_of(log.sources.begin(), log.sources.end(),
                                   [](const Source& source) { return source.stored > 0; });
  if (resumed) ++counts_.resumed;
}

// --- the host
// -------------------------------------------------------------------------------------

std::vector<logs::LogAccount> LogLedger::restored() const {
  if (plan_.sink == SinkKind::kForgets) return {};
  return accounts_;
}

LogLedger::Log& LogLedger::log_of(const logs::LogId& id) {
  const auto found =
      std::find_if(logs_.rbegin(), logs_.rend(), [&](const Log& log) { return log.id == id; });
  if (found == logs_.rend()) World::current().fail("logs", "a parcel of a log that nobody began");
  return *found;
}

// The first parcel of a log in this life of the host's daemon: the receiver goes on with the
// account that was restored, or begins one at what the guest knows to be acknowledged.
void LogLedger::begin_account(Log& log, const Parcel& parcel) {
  const std::vector<logs::LogAccount> all = restored();
  const auto known = logs::find_log(all, log.id);
  log.account = parcel.account;
  for (size_t i = 0; i < log.sources.size(); ++i) {
    logs::SourceAccount& account = log.account->sources[i];
    if (known != all.end()) {
      account = known->sources[i];
    } else {
      account.next = account.base;
      account.delivered = account.unaccounted = {};
      account.dropped = {};
    }
    Source& source = log.sources[i];
    if (known == all.end()) source.refused.clear();
    source.next = account.next.seq;
    const bool exact = plan_.sink == SinkKind::kExact && logs_.size() <= AccountFile::kLogs;
    if (exact ? *source.next == source.stored : *source.next <= source.stored) continue;
    World::current().fail("logs", fmt::format("{}: the sink has {} numbers, and its receiver goes "
                                              "on with number {}",
                                              name(log, source), source.stored, *source.next));
  }
}

void LogLedger::store(const Parcel& parcel) {
  World& world = World::current();
  Log& log = log_of(parcel.account.id);
  if (parcel.account.sources.size() != log.sources.size()) {
    world.fail("logs", "an account with other sources");
  }
  if (!log.account) begin_account(log, parcel);
  for (const ParcelRecord& record : parcel.records) {
    if (record.kind == ParcelRecord::Kind::kForgotten && logs_.size() > AccountFile::kLogs) {
      continue;
    }
    judge(log, log.sources.at(record.source), parcel, record);
  }
  judge_account(log, parcel);
}

void LogLedger::judge(Log& log, Source& source, const Parcel& parcel, const ParcelRecord& record) {
  World& world = World::current();
  world.trace("logged", record.source, record.seq, static_cast<int>(record.kind), record.count);
  using Kind = ParcelRecord::Kind;
  // What a life had numbered and not written when it was killed, and the host was told of.
  const bool cut_off = record.kind == Kind::kUnaccounted && disk_ && log.end == Log::End::kKilled &&
                       record.seq >= source.due;
  if (record.kind >= Kind::kUnaccounted && !cut_off) {
    world.fail("logs", fmt::format("{}: {} numbers from {} on are unaccounted", name(log, source),
                                   record.count, record.seq));
  }
  if (record.seq != *source.next) {
    world.fail("logs", fmt::format("{}: number {} comes where {} is due", name(log, source),
                                   record.seq, *source.next));
  }
  if (record.end_seq() > source.lines.size()) {
    world.fail("logs", fmt::format("{}: {} numbers for {} lines", name(log, source),
                                   record.end_seq(), source.lines.size()));
  }
  if (record.kind == Kind::kDrop) {
    judge_drop(log, source, record);
  } else if (!cut_off) {
    judge_text(source, parcel, record);
  }
  source.next = record.end_seq();
  if (record.end_seq() <= source.stored) {
    counts_.again += record.count;
    return;
  }
  const uint64_t fresh = record.end_seq() - source.stored;
  if (log.end != Log::End::kNone) counts_.spooled += fresh;
  source.stored = record.end_seq();
  (record.kind == Kind::kLine ? counts_.delivered : counts_.dropped) += fresh;
}

void LogLedger::judge_text(const Source& source, const Parcel& parcel,
                           const ParcelRecord& record) const {
  World& world = World::current();
  const Line& line = source.lines[record.seq];
  const std::string_view text = parcel.text_of(record);
  const bool head = record.kind == ParcelRecord::Kind::kHead;
  // A program that was cut off has left the beginning of a line, or of what frames it.
  if (!line.complete) return;
  if (record.bytes != line.text.size() || !line.text.starts_with(text) ||
      (head ? text.size() >= line.text.size() : text.size() != line.text.size())) {
    world.fail("bytes", fmt::format("a line is not what was written: number {}, {} of {} bytes",
                                    record.seq, text.size(), line.text.size()));
  }
  if (!record.has_credentials || record.credentials.uid != 1000) {
    world.fail("bytes", fmt::format("number {} is not of the program that wrote it", record.seq));
  }
}

void LogLedger::judge_drop(const Log& log, const Source& source, const ParcelRecord& record) const {
  using logs::DropReason;
  bool possible = false;
  switch (record.reason) {
    case DropReason::kOldest:
      possible = may_be_short(log) &&
                 std::any_of(plan_.sources.begin(), plan_.sources.end(), [](const auto& each) {
                   return each.full == logs::Policy::kDropOldest;
                 });
      break;
    case DropReason::kNewest:
      possible = may_be_short(log);
      break;
    case DropReason::kTooLarge:
      possible = true;
      break;
    case DropReason::kShutdown:
      possible = log.ending;
      break;
    case DropReason::kCorrupt:
      possible = log.power_lost && record.seq >= source.due;
      break;
    case DropReason::kRate:
    case DropReason::kKernelOverflow:
    case DropReason::kRejected:
      break;
  }
  if (possible) return;
  World::current().fail(
      "logs",
      fmt::format("{}: {} lines from number {} on are dropped for no reason ({})",
                  name(log, source), record.count, record.seq, logs::name_of(record.reason)));
}

// Whether the guest's memory cannot hold all that was written to it, or the spool what was left
// there as well. Each life begins a segment.
bool LogLedger::may_be_short(const Log& log) const {
  if (log.cost > plan_.memory / 3) return true;
  if (!disk_) return false;
  uint64_t cost = logs_.size() * logs::spool_geometry_for(*plan_.spool)->segment_size;
  for (const Log& each : logs_) cost += each.cost;
  return cost > *plan_.spool / 3;
}

void LogLedger::judge_account(Log& log, const Parcel& parcel) {
  World& world = World::current();
  for (size_t i = 0; i < log.sources.size(); ++i) {
    const logs::SourceAccount& account = parcel.account.sources[i];
    const logs::SourceAccount& before = log.account->sources[i];
    const Source& source = log.sources[i];
    logs::Tally delivered = before.delivered;
    logs::Tally dropped = logs::sum_of(before.dropped);
    // The receiver was told of these refusals since the parcel before.
    const logs::Tally refused = account.rejected();
    const logs::Tally refused_before = before.rejected();
    if (refused.lines < refused_before.lines) {
      world.fail("logs", fmt::format("{}: the receiver forgets refused lines", name(log, source)));
    }
    delivered.lines -= refused.lines - refused_before.lines;
    delivered.bytes -= refused.bytes - refused_before.bytes;
    dropped.add(refused.lines - refused_before.lines, refused.bytes - refused_before.bytes);
    logs::Tally unaccounted = before.unaccounted;
    for (const ParcelRecord& record : parcel.records) {
      if (record.source != i) continue;
      using Kind = ParcelRecord::Kind;
      (record.kind == Kind::kLine          ? delivered
       : record.kind == Kind::kUnaccounted ? unaccounted
                                           : dropped)
          .add(record.count, record.bytes);
    }
    const bool exact = account.next.seq == *source.next && account.balanced() &&
                       account.delivered == delivered && logs::sum_of(account.dropped) == dropped &&
                       account.unaccounted == unaccounted;
    if (!exact) {
      world.fail("logs", fmt::format("{}: the account is not what came", name(log, source)));
    }
    // What was cut off may have any size, and is the last of its log.
    const bool cut = account.next.seq > 0 && !source.lines[account.next.seq - 1].complete;
    if (!cut && account.next.bytes != source.bytes_before[account.next.seq]) {
      world.fail("logs", fmt::format("{}: {} bytes before number {}, and not {}", name(log, source),
                                     account.next.bytes, account.next.seq,
                                     source.bytes_before[account.next.seq]));
    }
  }
  log.account = parcel.account;
}

void LogLedger::refuse(const Parcel& parcel, const ParcelRecord& line) {
  Source& source = log_of(parcel.account.id).sources[line.source];
  ++counts_.refused;
  source.refused[line.seq] = line.bytes;
}

// What is saved of a log has all that was refused of it, whatever the receiver knew.
void LogLedger::judge_refusals(const Log& log, const logs::LogAccount& account) const {
  if (logs_.size() > AccountFile::kLogs) return;
  for (size_t i = 0; i < log.sources.size(); ++i) {
    logs::Tally refused;
    for (const auto& [seq, bytes] : log.sources[i].refused) {
      if (seq < account.sources[i].next.seq) refused.add(1, bytes);
    }
    const logs::Tally counted = account.sources[i].rejected();
    if (counted == refused && account.sources[i].balanced()) continue;
    World::current().fail("logs",
                          fmt::format("{}: the sink refused {} lines, and its account has {}",
                                      name(log, log.sources[i]), refused.lines, counted.lines));
  }
}

void LogLedger::commit(const Parcel& parcel) {
  Log& log = log_of(parcel.account.id);
  judge_refusals(log, parcel.account);
  for (size_t i = 0; i < log.sources.size(); ++i) {
    Source& source = log.sources[i];
    source.safe = std::max(source.safe, parcel.account.sources[i].next.seq);
  }
  std::erase_if(accounts_, [&](const auto& account) { return account.id == log.id; });
  if (accounts_.size() == AccountFile::kLogs) accounts_.erase(accounts_.begin());
  accounts_.push_back(parcel.account);
}

void LogLedger::end_host() {
  const bool keeps = World::current().canary() == Canary::kKeepTail;
  for (Log& log : logs_) {
    log.account.reset();
    for (Source& source : log.sources) {
      source.next.reset();
      if (plan_.sink == SinkKind::kExact && !keeps) source.stored = source.safe;
      source.refused.erase(source.refused.lower_bound(source.safe), source.refused.end());
    }
  }
}

std::string LogLedger::describe() const {
  std::string text;
  for (const Log& log : logs_) {
    for (const Source& source : log.sources) {
      text += fmt::format(
          "  {}: {} lines, {} numbered, {} due, {} at the sink, {} safe, {} acknowledged\n",
          name(log, source), source.lines.size(), source.progress.numbered, source.due,
          source.stored, source.safe, source.progress.acknowledged);
    }
  }
  return text;
}

}  // namespace virtproxy::sim
