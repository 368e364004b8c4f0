// Accounts of logs as bytes, for the files that keep them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/logs/receiver.h"

namespace virtproxy {

class AccountWriter {
 public:
  explicit AccountWriter(std::string& out) : out_(out) {}

  void put(uint64_t value);
  void put(const logs::LogId& id);
  void put(std::string_view text);
  void put(const logs::LogAccount& account);

 private:
  void put(const logs::Mark& mark);
  void put(const logs::Tally& tally);

  std::string& out_;
};

// Of bytes whose check holds. They may still be none of this version, so every length is judged:
// good() is false from the first one on that is wrong, and what was read is of no use.
class AccountReader {
 public:
  explicit AccountReader(std::string_view bytes) : rest_(bytes) {}

  bool good() const { return good_; }
  bool empty() const { return rest_.empty(); }
  std::string_view rest() const { return rest_; }
  uint64_t number();
  logs::LogId id();
  std::string text(size_t most);
  logs::LogAccount account();

 private:
  logs::Mark mark();
  logs::Tally tally();

  std::string_view rest_;
  bool good_ = true;
};

}  // namespace virtproxy
