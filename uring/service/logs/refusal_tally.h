// Counts the lines that sinks refused for good, and adds them to accounts that lack them.
//
// A receiver makes the account of a parcel when it takes the lines, and is told of refusals later.
// The accounts of parcels on their way therefore lack what was refused meanwhile, and an account
// from the spool lacks every refusal that its receiver was told of later. Each account that is
// saved has the refused lines before its end as dropped, and not as delivered.
//
// A file of accounts has how many lines were refused and not which. If a sink refuses a line that
// another sink was ahead with at a restart, the line counts once where that sink had refused as
// many lines there.
#pragma once

#include <cstdint>
#include <vector>

#include "uring/service/logs/account_file.h"
#include "uring/service/logs/parcel.h"

namespace virtproxy {

class RefusalTally {
 public:
  // Logs of one VM that are remembered, those that were used last.
  static constexpr size_t kLogs = AccountFile::kLogs;

  // Remembers what a saved account of that VM has as refused.
  void note(size_t vm, const logs::LogAccount& account);
  // A sink refuses a line of the parcel. If another sink refused it before, nothing changes.
  void refuse(Parcel& parcel, const Parcel::Refused& line);
  // Moves refused lines before the end of the account that it still has as delivered to dropped.
  void complete(size_t vm, logs::LogAccount& account) const;
  // All sinks have the parcel: no account that ends before it will be saved any more.
  void settle(const Parcel& parcel);

 private:
  // At least so many of the numbers before `end` were refused.
  struct Known {
    uint64_t end = 0;
    logs::Tally refused;
  };
  struct Source {
    std::vector<Known> known;
    std::vector<Parcel::Refused> lines;  // that were refused since, by number

    logs::Tally before(uint64_t end) const;
    bool add(const Parcel::Refused& line);
    void settle(uint64_t end);
  };
  struct Log {
    logs::LogId id;
    std::vector<Source> sources;
  };

  const Log* find(size_t vm, const logs::LogId& id) const;
  Log& log_of(size_t vm, const logs::LogAccount& account);

  std::vector<std::vector<Log>> logs_;  // by VM; the one used last is the last
};

}  // namespace virtproxy
