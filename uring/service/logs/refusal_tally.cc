#include "uring/service/logs/refusal_tally.h"

#include <algorithm>
#include <iterator>

namespace virtproxy {
logs::Tally RefusalTally::Source::before(uint64_t end) const {
  const auto with_lines = [&](const Known& from) {
    logs::Tally sum = from.refused;
    for (const Parcel::Refused& line : lines) {
      if (line.seq >= from.end && line.seq < end) sum.add(1, line.bytes);
    }
    return sum;
  };
  logs::Tally most = with_lines({});
  for (const Known& each : known) {
    if (each.end > end) continue;
    const logs::Tally sum = with_lines(each);
    if (sum.lines > most.lines) most = sum;
  }
  return most;
}

// They come in order but where several sinks refuse lines.
bool RefusalTally::Source::add(const Parcel::Refused& line) {
  auto place = lines.end();
  while (place != lines.begin() && std::prev(place)->seq >= line.seq) --place;
  if (place != lines.end() && place->seq == line.seq) return false;
  lines.insert(place, line);
  return true;
}

void RefusalTally::Source::settle(uint64_t end) {
  const logs::Tally sum = before(end);
  std::erase_if(known, [&](const Known& each) { return each.end <= end; });
  std::erase_if(lines, [&](const Parcel::Refused& line) { return line.seq < end; });
  if (sum.lines > 0) known.push_back({end, sum});
}

const RefusalTally::Log* RefusalTally::find(size_t vm, const logs::LogId& id) const {
  if (vm >= logs_.size()) return nullptr;
  const auto log = logs::find_log(logs_[vm], id);
  return log == logs_[vm].end() ? nullptr : &*log;
}

RefusalTally::Log& RefusalTally::log_of(size_t vm, const logs::LogAccount& account) {
  if (vm >= logs_.size()) logs_.resize(vm + 1);
  std::vector<Log>& logs = logs_[vm];
  const auto known = logs::find_log(logs, account.id);
  if (known != logs.end()) {
    std::rotate(known, known + 1, logs.end());
  } else {
    if (logs.size() == kLogs) logs.erase(logs.begin());
    logs.push_back({account.id, {}});
  }
  if (logs.back().sources.size() < account.sources.size()) {
    logs.back().sources.resize(account.sources.size());
  }
  return logs.back();
}

void RefusalTally::note(size_t vm, const logs::LogAccount& account) {
  for (size_t i = 0; i < account.sources.size(); ++i) {
    const logs::SourceAccount& source = account.sources[i];
    if (source.rejected().lines == 0) continue;
    log_of(vm, account).sources[i].known.push_back({source.next.seq, source.rejected()});
  }
}

void RefusalTally::refuse(Parcel& parcel, const Parcel::Refused& line) {
  if (line.source >= parcel.account.sources.size()) return;
  Source& source = log_of(parcel.vm, parcel.account).sources[line.source];
  // What a receiver was told of before is in the accounts that it makes.
  if (source.lines.empty() && source.known.empty()) {
    const logs::Tally& told = parcel.account.sources[line.source].rejected();
    if (told.lines > 0) source.known.push_back({line.seq, told});
  }
  if (source.add(line)) parcel.refused.push_back(line);
}

void RefusalTally::complete(size_t vm, logs::LogAccount& account) const {
  const Log* const log = find(vm, account.id);
  if (log == nullptr) return;
  for (size_t i = 0; i < std::min(log->sources.size(), account.sources.size()); ++i) {
    logs::SourceAccount& source = account.sources[i];
    const logs::Tally has = source.rejected();
    const logs::Tally wanted = log->sources[i].before(source.next.seq);
    if (wanted.lines <= has.lines || wanted.bytes < has.bytes) continue;
    source.reject({wanted.lines - has.lines, wanted.bytes - has.bytes});
  }
}

void RefusalTally::settle(const Parcel& parcel) {
  if (find(parcel.vm, parcel.account.id) == nullptr) return;
  Log& log = log_of(parcel.vm, parcel.account);
  for (size_t i = 0; i < parcel.account.sources.size(); ++i) {
    log.sources[i].settle(parcel.account.sources[i].next.seq);
  }
}

}  // namespace virtproxy
