#include "uring/service/logs/journal_export.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "uring/base/units.h"

namespace virtproxy::logs {
namespace {

constexpr size_t kMostName = 256;  // bytes of the name of a field, more than the journal allows

}  // namespace

std::optional<JournalEntry> JournalExport::next() {
  while (!complete_ && parse_field()) continue;
  if (!std::exchange(complete_, false)) {
    in_.erase(0, std::exchange(at_, 0));
    return std::nullopt;
  }
  return finish();
}

// False where more bytes are needed.
bool JournalExport::parse_field() {
  const std::string_view rest = std::string_view(in_).substr(at_);
  if (!binary_.empty() && !left_) {
    uint64_t size = 0;
    if (rest.size() < sizeof size) return false;
    std::memcpy(&size, rest.data(), sizeof size);  // little-endian, as the machines it runs on
    left_ = size;
    at_ += sizeof size;
    return true;
  }
  if (left_) {
    const auto part = rest.substr(0, static_cast<size_t>(std::min<uint64_t>(*left_, rest.size())));
    value_ += part.substr(0, max_value_ - std::min(max_value_, value_.size()));
    *left_ -= part.size();
    at_ += part.size();
    if (*left_ > 0 || part.size() == rest.size()) return false;
    ++at_;  // the LF behind it
    set(binary_, value_);
    binary_.clear();
    value_.clear();
    left_.reset();
    return true;
  }
  const size_t end = rest.find('\n');
  if (end == std::string_view::npos) {
    // Of a longer value the beginning is kept, and what comes with its end.
    in_.resize(std::min(in_.size(), at_ + max_value_ + kMostName));
    return false;
  }
  const std::string_view line = rest.substr(0, end);
  at_ += end + 1;
  if (line.empty()) {
    complete_ = std::exchange(any_, false);
    return true;
  }
  const size_t equals = line.find('=');
  if (equals == std::string_view::npos) {
    binary_ = line;
  } else {
    set(line.substr(0, equals), line.substr(equals + 1));
  }
  return true;
}

void JournalExport::set(std::string_view name, std::string_view value) {
  any_ = true;
  const auto number = [&] { return parse_number<uint64_t>(value).value_or(0); };
  if (name == "MESSAGE") message_ = value;
  if (name == "__CURSOR") cursor_ = value;
  if (name == "__REALTIME_TIMESTAMP") microseconds_ = number();
  if (name == "PRIORITY") priority_ = number() % 8;
  if (name == "SYSLOG_FACILITY") facility_ = number() % 24;
  if (name == "SYSLOG_IDENTIFIER") identifier_ = value;
  if (name == "_COMM" && identifier_.empty()) identifier_ = value;
  if (name == "_PID") {
    pid_ = value;
    who_.pid = static_cast<uint32_t>(number());
    has_pid_ = true;
  }
  if (name == "SYSLOG_PID" && pid_.empty()) pid_ = value;
  if (name == "_UID") who_.uid = static_cast<uint32_t>(number());
  if (name == "_GID") who_.gid = static_cast<uint32_t>(number());
}

JournalEntry JournalExport::finish() {
  JournalEntry entry;
  const auto seconds = static_cast<time_t>(microseconds_ / 1'000'000);
  tm parts{};
  gmtime_r(&seconds, &parts);
  char date[32];
  strftime(date, sizeof date, "%b %e %H:%M:%S", &parts);
  entry.line = "<" + std::to_string(facility_ * 8 + priority_) + ">" + date + " " +
               (identifier_.empty() ? "-" : identifier_) + (pid_.empty() ? "" : "[" + pid_ + "]") +
               ": " + message_;
  entry.cursor = std::move(cursor_);
  entry.time = microseconds_ * 1000;
  if (has_pid_) entry.credentials = who_;
  message_.clear();
  identifier_.clear();
  pid_.clear();
  cursor_.clear();
  priority_ = 6;
  facility_ = 3;
  microseconds_ = 0;
  who_ = {};
  has_pid_ = false;
  return entry;
}

}  // namespace virtproxy::logs
