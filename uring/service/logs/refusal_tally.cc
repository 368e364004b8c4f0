#include "uring/service/logs/refusal_tally.h"

#include <algorithm>

namespace virtproxy {
namespace {

logs::Tally rejected(const logs::SourceAccount& source) {
  return source.dropped[static_cast<size_t>(logs::DropReason::kRejected)];
}

std::vector<logs::Tally> rejected(const logs::LogAccount& account) {
  std::vector<logs::Tally> tallies;
  for (const logs::SourceAccount& source : account.sources) tallies.push_back(rejected(source));
  return tallies;
}

void raise(const std::vector<logs::Tally>& to, logs::LogAccount& account) {
  for (size_t i = 0; i < std::min(to.size(), account.sources.size()); ++i) {
    const logs::Tally has = rejected(account.sources[i]);
    if (to[i].lines <= has.lines || to[i].bytes < has.bytes) continue;
    account.sources[i].reject({to[i].lines - has.lines, to[i].bytes - has.bytes});
  }
}

}  // namespace

void add_refusals(const logs::LogAccount& other, logs::LogAccount& account) {
  raise(rejected(other), account);
}

void RefusalTally::restore(size_t vm, const logs::LogAccount& account) {
  const std::vector<logs::Tally> tallies = rejected(account);
  const auto none = [](const logs::Tally& tally) { return tally.lines == 0; };
  if (std::all_of(tallies.begin(), tallies.end(), none)) return;
  std::vector<Log>& of_vm = logs_[vm];
  std::erase_if(of_vm, [&](const Log& log) { return log.id == account.id; });
  if (of_vm.size() == kLogs) of_vm.erase(of_vm.begin());
  of_vm.push_back({account.id, tallies});
}

void RefusalTally::refuse(Parcel& parcel, const Parcel::Refused& line) {
  if (line.source >= parcel.account.sources.size() || !parcel.note_refused(line)) return;
  complete(parcel.vm, parcel.account);
  parcel.account.sources[line.source].reject({1, line.bytes});
  restore(parcel.vm, parcel.account);
}

void RefusalTally::complete(size_t vm, logs::LogAccount& account) const {
  const auto of_vm = logs_.find(vm);
  if (of_vm == logs_.end()) return;
  for (const Log& log : of_vm->second) {
    if (log.id == account.id) raise(log.rejected, account);
  }
}

}  // namespace virtproxy
