// The journal's export format (systemd.io/JOURNAL_EXPORT_FORMATS): fields of a line each, or with
// their size before them, and an empty line behind each entry.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/logs/batch.h"

namespace virtproxy::logs {

struct JournalEntry {
  std::string line;  // as a program would have written it to /dev/log
  std::string cursor;
  UnixTime time = 0;
  std::optional<Credentials> credentials;
};

class JournalExport {
 public:
  // Of a value, `max_value` bytes are kept.
  explicit JournalExport(size_t max_value) : max_value_(max_value) {}

  void feed(std::string_view bytes) { in_.append(bytes); }
  // The next entry that is complete. All of them are taken before feed() is called again.
  std::optional<JournalEntry> next();

 private:
  bool parse_field();
  void set(std::string_view name, std::string_view value);
  JournalEntry finish();

  const size_t max_value_;
  std::string in_;
  size_t at_ = 0;                 // of it, parsed
  std::string binary_;            // the name of the field whose value is being read
  std::optional<uint64_t> left_;  // bytes of that value, once its size is known
  std::string value_;
  bool any_ = false;
  bool complete_ = false;
  std::string message_, identifier_, pid_, cursor_;
  uint64_t priority_ = 6, facility_ = 3, microseconds_ = 0;
  Credentials who_;
  bool has_pid_ = false;
};

}  // namespace virtproxy::logs
