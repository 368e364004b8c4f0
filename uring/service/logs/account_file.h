// Where the accounts of logs are kept over a restart, together with what a sink needs to go on
// where it stood: a file that is opened before the sandbox and only read and written afterwards.
//
//   slot 0 at 0, slot 1 at kSlotStride:   snapshot · change · change · …
//
// Each commit appends one checked record to the slot in use: the accounts that have changed. When
// the slot has grown, the other one is begun with a snapshot of all accounts and a higher
// generation; until that snapshot is complete the old slot is what counts. After a crash the
// highest generation is read up to the first record that is not whole. A commit is complete, or it
// has not happened.
//
// What is written survives the end of the process. sync() makes it survive the end of the machine.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tl/expected.hpp>
#include <utility>
#include <vector>

#include "core/logs/receiver.h"
#include "core/time.h"
#include "uring/base/made_files.h"
#include "uring/base/unique_fd.h"

namespace virtproxy {

// What fails for a file is tried again after this long.
inline constexpr Duration kFileRetry = std::chrono::seconds(1);

// What the sink notes with its accounts. Zeros where a sink needs nothing.
struct SinkNote {
  uint64_t offset = 0;  // of a file: its bytes that belong to the accounts
  uint64_t device = 0;  // … and which file that is
  uint64_t inode = 0;
  uint64_t begun = 0;  // when it was begun, nanoseconds since 1970

  friend bool operator==(const SinkNote&, const SinkNote&) = default;
};

class AccountFile {
 public:
  // Logs that are kept of one VM, those that were used last.
  static constexpr size_t kLogs = 8;
  // VMs that are kept; one that is new takes the place of none.
  static constexpr size_t kMostVms = 16384;

  struct Change {
    std::string vm;
    logs::LogAccount account;
  };

  // Opens and locks the file, makes it if it is not there, and reads what it holds. The error says
  // what is wrong with the path, or that another process uses it.
  static tl::expected<AccountFile, std::string> open(const std::string& path, MadeFiles& made);

  // True if the file held nothing: no sink has written with it.
  bool fresh() const { return fresh_; }
  const SinkNote& note() const { return note_; }
  // By VM; the log used last is the last.
  const std::map<std::string, std::vector<logs::LogAccount>>& accounts() const { return accounts_; }

  // Makes the changes and the note durable against the end of the process, all or nothing. False,
  // with errno, where that is not possible: to be tried again, with these changes and later ones.
  bool commit(const SinkNote& note, const std::vector<Change>& changes);
  // Forces what was committed to the disk. False with errno.
  bool sync();

 private:
  AccountFile() = default;
  void load();
  bool load_slot(unsigned slot);
  bool write_record(const std::string& payload);
  void apply(const Change& change);
  std::string snapshot() const;

  UniqueFd fd_;
  bool fresh_ = true;
  SinkNote note_;
  std::map<std::string, std::vector<logs::LogAccount>> accounts_;
  unsigned slot_ = 0;
  uint64_t generation_ = 0;
  uint64_t number_ = 0;  // of the next record in the slot
  uint64_t end_ = 0;     // of the slot's records, bytes from its beginning
  uint64_t limit_ = 0;   // of the slot, at which the other one is begun
};

}  // namespace virtproxy
