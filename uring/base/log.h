// The log: one line each on standard error.
//
//   2026-11-22T13:45:01.123Z info  message       on a terminal, a pipe or a file (UTC)
//   <6>message                                    when standard error is the journal
//
// The journal is recognised by JOURNAL_STREAM naming the very file that standard error is, so that
// `virtproxy 2>file` inside a service still gets time stamps. Arguments are formatted by fmt and
// the format is checked at compile time; only log.cc instantiates fmt and spdlog.
//
// Logging never throws, and never waits for a reader: a line that does not fit now is dropped and
// counted, and the next line that does fit is preceded by the count. Control characters come out as
// \xNN, so a peer's text cannot start a line of its own. Safe from any thread. The first line that
// is written ignores SIGPIPE for the process if no handler is set.
#pragma once

#include <fmt/core.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/time.h"

namespace virtproxy {

// kText, or one JSON object a line:
//   {"time":"2026-11-22T13:45:01.123Z","level":"info","channel":"vm1","message":"up, protocol 2"}
// `channel` is there where the message begins with one ("channel NAME: "), and so is `service` behind
// it. Other facts are LogFacts. The journal's priority precedes either.
enum class LogFormat { kText, kJson };

enum class LogLevel : int { kError, kWarn, kInfo, kDebug, kTrace };

// Longest line in bytes with its time stamp; the rest of a longer one is cut off and marked.
inline constexpr size_t kMaxLogLine = 2048;

std::string_view log_level_name(LogLevel level);
// error, warn (or warning), info, debug, trace.
std::optional<LogLevel> parse_log_level(std::string_view name);

// What a line states, for programs; the message states it for people. Not what is empty.
struct LogFacts {
  // Where the message does not begin with them.
  std::string_view channel{};
  std::string_view service{};
  std::string_view peer{};    // address, user and process, or CID, of the client or the other end
  std::string_view reason{};  // a name in lower case
  std::optional<uint64_t> sent{};  // bytes of payload, as in StreamBytes
  std::optional<uint64_t> received{};
  std::optional<Duration> duration{};
};

namespace log_internal {
extern std::atomic<int> max_level;
extern std::atomic<uint64_t> suppressed;
void write(LogLevel level, fmt::string_view format, fmt::format_args args,
           const LogFacts& facts = {}) noexcept;
}  // namespace log_internal

// kInfo until set.
void set_log_level(LogLevel level);
LogLevel log_level();
// kText until set; before other threads log.
void set_log_format(LogFormat format);
inline bool log_enabled(LogLevel level) {
  return static_cast<int>(level) <= log_internal::max_level.load(std::memory_order_relaxed);
}

// Opens now what the first line would open: afterwards a line takes no more than writing, with
// whatever privileges are left.
void prepare_log();

// Whether a regular file that is standard error may be written. While its file system is frozen a
// write would wait: lines for it are held in memory, at most kMaxHeldLog bytes of them, and what
// does not fit is dropped and counted. kWritten writes what was held. Pipes, terminals, sockets and
// the journal take lines at any time.
enum class LogFile { kWritten, kHeld };
inline constexpr size_t kMaxHeldLog = 64 * 1024;
// kWritten until set.
void set_log_file(LogFile file);

// Lines dropped since the start because standard error could not take them.
uint64_t log_lines_dropped();
// Lines that a RateLimit or a RepeatLimit held back since the start.
inline uint64_t log_lines_suppressed() {
  return log_internal::suppressed.load(std::memory_order_relaxed);
}
inline void count_suppressed_line() {
  log_internal::suppressed.fetch_add(1, std::memory_order_relaxed);
}

// Call first thing in main: a closed descriptor 0, 1 or 2 becomes /dev/null, so that no socket can
// be given number 2 and receive the log.
void open_standard_descriptors();

template <typename... Args>
void log_at(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(level)) log_internal::write(level, format, fmt::make_format_args(args...));
}

template <typename... Args>
void log_facts(LogLevel level, const LogFacts& facts, fmt::format_string<Args...> format,
               Args&&... args) {
  if (log_enabled(level)) {
    log_internal::write(level, format, fmt::make_format_args(args...), facts);
  }
}

template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_internal::write(LogLevel::kError, format, fmt::make_format_args(args...));
}

template <typename... Args>
void log_warn(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::kWarn)) {
    log_internal::write(LogLevel::kWarn, format, fmt::make_format_args(args...));
  }
}

template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::kInfo)) {
    log_internal::write(LogLevel::kInfo, format, fmt::make_format_args(args...));
  }
}

// What an operator asked for, whatever the level.
template <typename... Args>
void log_answer(fmt::format_string<Args...> format, Args&&... args) {
  log_internal::write(LogLevel::kInfo, format, fmt::make_format_args(args...));
}

template <typename... Args>
void log_answer_facts(const LogFacts& facts, fmt::format_string<Args...> format, Args&&... args) {
  log_internal::write(LogLevel::kInfo, format, fmt::make_format_args(args...), facts);
}

template <typename... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::kDebug)) {
    log_internal::write(LogLevel::kDebug, format, fmt::make_format_args(args...));
  }
}

template <typename... Args>
void log_trace(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::kTrace)) {
    log_internal::write(LogLevel::kTrace, format, fmt::make_format_args(args...));
  }
}

// Keeps one kind of line to at most N in any window of a second. Not thread-safe: one per thread
// and kind.
//
//   if (const auto hidden = limit.allow(now)) log_warn("refused {}{}", peer, and_others(*hidden));
class RateLimit {
 public:
  // What is held back: lines count for log_lines_suppressed().
  enum class Of : uint8_t { kLines, kOther };

  explicit RateLimit(unsigned lines_per_second, Of of = Of::kLines)
      : limit_(lines_per_second), of_(of) {}

  // Nothing: say nothing, it is counted. A number: say it, and that so many were held back since
  // the last line that was allowed.
  std::optional<uint64_t> allow(Instant now);

 private:
  unsigned limit_;
  Of of_;
  unsigned used_ = 0;
  uint64_t suppressed_ = 0;
  std::optional<Instant> window_start_;
};

// " (and 7 others)", or nothing for none.
std::string and_others(uint64_t hidden);

}  // namespace virtproxy
