// Lines that sinks refused for good, for accounts that do not have them yet.
//
// A receiver makes the account of a parcel when it takes the lines, and is told of refusals later.
// So the accounts of parcels on their way lack what was refused meanwhile, and those that a spool
// gives again lack all of it. Each saved account is completed from here: what was refused counts as
// dropped in it, and not as delivered.
//
// A line that one sink refuses before a restart and another one behind it counts twice.
#pragma once

#include <map>
#include <vector>

#include "uring/service/logs/parcel.h"

namespace virtproxy {

class RefusalTally {
 public:
  // Logs of one VM that are remembered, those with the latest refusals.
  static constexpr size_t kLogs = 8;

  // The account with which a receiver goes on has all refusals so far.
  void restore(size_t vm, const logs::LogAccount& account);
  // A sink refuses a line of the parcel, whose account has it as dropped then. The second one that
  // refuses the same line changes nothing.
  void refuse(Parcel& parcel, const Parcel::Refused& line);
  // Adds to an account, of a log of that VM, what it lacks.
  void complete(size_t vm, logs::LogAccount& account) const;

 private:
  struct Log {
    logs::LogId id;
    std::vector<logs::Tally> rejected;  // by source
  };

  std::map<size_t, std::vector<Log>> logs_;  // by VM; the latest refusal is of the last
};

// Adds to `account` the refusals of `other`, an account of the same log that is not ahead of it.
void add_refusals(const logs::LogAccount& other, logs::LogAccount& account);

}  // namespace virtproxy
