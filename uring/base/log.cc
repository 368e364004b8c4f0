#ifndef FMT_HEADER_ONLY
#define FMT_HEADER_ONLY
#endif
#define SPDLOG_LEVEL_NAMES \
  { "trace", "debug", "info ", "warn ", "error", "fatal", "off" }

#include "uring/base/log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spdlog/pattern_formatter.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <string>
#include <utility>

namespace virtproxy {
namespace {

std::atomic<uint64_t> dropped{0};

constexpr std::string_view kCut = "...";

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kTrace:
      break;
  }
  return spdlog::level::trace;
}

// Levels of syslog: err 3, warning 4, info 6, debug 7.
std::string_view journal_prefix(LogLevel level) {
  switch (level) {
    case LogLevel::kError:
      return "<3>";
    case LogLevel::kWarn:
      return "<4>";
    case LogLevel::kInfo:
      return "<6>";
    default:
      return "<7>";
  }
}

bool stderr_is_journal() {
  const char* stream = std::getenv("JOURNAL_STREAM");
  struct stat status {};
  if (stream == nullptr || fstat(STDERR_FILENO, &status) != 0) return false;
  return std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino) == stream;
}

// Bytes of the character that the text begins with; 0 if it is none of UTF-8.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates and what is beyond U+10FFFF.
  const bool wrong = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f) ||
                     (first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f);
  return wrong ? 0 : length;
}

class Writer {
 public:
  Writer() : journal_(stderr_is_journal()) {
    struct sigaction action {};
    if (sigaction(SIGPIPE, nullptr, &action) == 0 && action.sa_handler == SIG_DFL) {
      action.sa_handler = SIG_IGN;
      sigaction(SIGPIPE, &action, nullptr);
    }
  }

  void prepare() {
    const std::lock_guard lock(mutex_);
    tzset();
    struct stat status {};
    if (fstat(STDERR_FILENO, &status) != 0) return;
    if (S_ISFIFO(status.st_mode) || S_ISCHR(status.st_mode)) nonblocking_stderr(status);
  }

  void set_json(bool json) { json_.store(json, std::memory_order_relaxed); }

  void set_file(LogFile file) {
    const std::lock_guard lock(mutex_);
    file_ = file;
    if (file == LogFile::kHeld || held_.empty()) return;
    const std::string text = std::exchange(held_, {});
    // A line at a time, so that each one that is not taken is counted.
    for (size_t at = 0, end = 0; at < text.size(); at = end) {
      end = text.find('\n', at) + 1;
      if (end == 0) end = text.size();
      if (!send_all(text.data() + at, end - at)) dropped.fetch_add(1, std::memory_order_relaxed);
    }
  }

  void write(LogLevel level, std::string_view message, const LogFacts& facts) {
    const std::lock_guard lock(mutex_);
    const uint64_t lost = dropped.load(std::memory_order_relaxed);
    // The count is complete once lines are written again.
    if (lost > reported_ && file_ == LogFile::kWritten) {
      fmt::memory_buffer notice;
      fmt::format_to(std::back_inserter(notice),
                     "{} log lines were dropped: standard error did not take them",
                     lost - reported_);
      if (write_line(LogLevel::kWarn, std::string_view(notice.data(), notice.size()), {})) {
        reported_ = lost;
      }
    }
    if (!write_line(level, message, facts)) dropped.fetch_add(1, std::memory_order_relaxed);
  }

 private:
  bool write_line(LogLevel level, std::string_view message, const LogFacts& facts) {
    spdlog::memory_buf_t line;
    if (torn_) line.push_back('\n');
    const std::string_view name = log_level_name(level);
    const spdlog::details::log_msg stamp(spdlog::source_loc{}, {name.data(), name.size()},
                                         to_spdlog(level), "");
    if (journal_) append(line, journal_prefix(level));
    if (json_.load(std::memory_order_relaxed)) {
      json_formatter_.format(stamp, line);
      append_json(line, message, facts);
    } else {
      if (!journal_) formatter_.format(stamp, line);
      append_clean(line, message);
    }
    line.push_back('\n');
    return send_all(line.data(), line.size());
  }

  static void append_clean(spdlog::memory_buf_t& line, std::string_view message) {
    for (const char c : message) {
      if (line.size() + kCut.size() + 5 > kMaxLogLine) {
        line.append(kCut.data(), kCut.data() + kCut.size());
        return;
      }
      const auto byte = static_cast<unsigned char>(c);
      if (byte >= 0x20 && byte != 0x7f) {
        line.push_back(c);
      } else {
        fmt::format_to(std::back_inserter(line), "\\x{:02x}", byte);
      }
    }
  }

  static void append(spdlog::memory_buf_t& line, std::string_view text) {
    line.append(text.data(), text.data() + text.size());
  }

  // Moves "NAME VALUE: " from the front of the message to a member of the object.
  static bool move_prefix(spdlog::memory_buf_t& line, std::string_view name,
                          std::string_view& message) {
    const size_t colon = message.find(": ");
    if (colon == std::string_view::npos || !message.starts_with(name) ||
        message.substr(name.size(), 1) != " ") {
      return false;
    }
    append_member(line, name, message.substr(name.size() + 1, colon - name.size() - 1));
    message.remove_prefix(colon + 2);
    return true;
  }

  // What is long is cut, so that there is room for the message.
  static void append_member(spdlog::memory_buf_t& line, std::string_view name,
                            std::string_view value) {
    constexpr size_t kMostValue = 64;
    if (value.empty()) return;
    fmt::format_to(std::back_inserter(line), "\"{}\":\"", name);
    append_escaped(line, value.substr(0, kMostValue));
    append(line, "\",");
  }

  // The rest of the object behind its time and level. A name of a channel has no colon in it.
  static void append_json(spdlog::memory_buf_t& line, std::string_view message,
                          const LogFacts& facts) {
    const bool of_channel = move_prefix(line, "channel", message);
    if (!of_channel) append_member(line, "channel", facts.channel);
    if (!of_channel || !move_prefix(line, "service", message)) {
      append_member(line, "service", facts.service);
    }
    append_member(line, "peer", facts.peer);
    append_member(line, "reason", facts.reason);
    const auto out = std::back_inserter(line);
    if (facts.sent) fmt::format_to(out, "\"sent_bytes\":{},", *facts.sent);
    if (facts.received) fmt::format_to(out, "\"received_bytes\":{},", *facts.received);
    if (facts.duration) {
      fmt::format_to(out, "\"seconds\":{:.6f},", seconds_of(*facts.duration));
    }
    append(line, "\"message\":\"");
    append_escaped(line, message);
    append(line, "\"}");
  }

  // As the inside of a JSON string, cut where the line would become too long. Bytes that are not
  // UTF-8 become U+FFFD.
  static void append_escaped(spdlog::memory_buf_t& line, std::string_view text) {
    constexpr size_t kRest = 32;  // an escaped character, the mark of a cut, and the end of a line
    while (!text.empty()) {
      if (line.size() + kRest > kMaxLogLine) return append(line, kCut);
      const size_t length = utf8_length(text);
      const auto byte = static_cast<unsigned char>(text.front());
      if (length == 0) {
        append(line, "\\ufffd");
      } else if (byte == '"' || byte == '\\') {
        line.push_back('\\');
        line.push_back(text.front());
      } else if (byte < 0x20 || byte == 0x7f) {
        fmt::format_to(std::back_inserter(line), "\\u{:04x}", byte);
      } else {
        append(line, text.substr(0, length));
      }
      text.remove_prefix(std::max<size_t>(length, 1));
    }
  }

  // False when nothing of the line was taken and another try later could succeed.
  bool send_all(const char* data, size_t size) {
    struct stat status {};
    if (fstat(STDERR_FILENO, &status) != 0) return true;
    if (S_ISREG(status.st_mode) && file_ == LogFile::kHeld) {
      if (size > kMaxHeldLog - held_.size()) return false;
      held_.append(data, size);
      torn_ = false;
      return true;
    }
    const bool may_block = S_ISFIFO(status.st_mode) || S_ISCHR(status.st_mode);
    const int fd = may_block ? nonblocking_stderr(status) : STDERR_FILENO;
    const size_t whole = size;
    while (size > 0) {
      ssize_t sent = -1;
      if (S_ISSOCK(status.st_mode)) {
        sent = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
      } else {
        pollfd ready{fd, POLLOUT, 0};
        // Where there is no non-blocking description of our own this is the best that can be known.
        if (may_block && poll(&ready, 1, 0) == 0) break;
        sent = ::write(fd, data, size);
      }
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0) {
        if (errno == EAGAIN || errno == ENOBUFS || errno == ENOSPC) break;
        return true;
      }
      data += sent;
      size -= static_cast<size_t>(sent);
    }
    if (size == whole) return false;
    torn_ = size > 0;
    return true;
  }

  // O_NONBLOCK belongs to the open file description, which others share: the shell, for one. So a
  // pipe or terminal is opened once more. Falls back to standard error itself.
  int nonblocking_stderr(const struct stat& status) {
    // One try for each: what may not be opened now may not be opened for the next line either.
    const bool same = status.st_dev == own_device_ && status.st_ino == own_inode_;
    if (!same) {
      if (own_fd_ >= 0) close(own_fd_);
      own_fd_ = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
      own_device_ = status.st_dev;
      own_inode_ = status.st_ino;
    }
    return own_fd_ >= 0 ? own_fd_ : STDERR_FILENO;
  }

  const bool journal_;
  std::atomic<bool> json_{false};
  std::mutex mutex_;
  LogFile file_ = LogFile::kWritten;
  std::string held_;
  uint64_t reported_ = 0;
  bool torn_ = false;  // the last line was cut off by a full terminal or socket
  int own_fd_ = -1;
  dev_t own_device_ = 0;
  ino_t own_inode_ = 0;
  spdlog::pattern_formatter json_formatter_{
      "{\"time\":\"%Y-%m-%dT%H:%M:%S.%eZ\",\"level\":\"%n\",", spdlog::pattern_time_type::utc, ""};
  spdlog::pattern_formatter formatter_{"%Y-%m-%dT%H:%M:%S.%eZ %l ", spdlog::pattern_time_type::utc,
                                       ""};
};

// Never destroyed: a thread may log while the process exits.
Writer& writer() {
  static Writer* const instance = new Writer;
  return *instance;
}

}  // namespace

namespace log_internal {

std::atomic<int> max_level{static_cast<int>(LogLevel::kInfo)};
std::atomic<uint64_t> suppressed{0};

void write(LogLevel level, fmt::string_view format, fmt::format_args args,
           const LogFacts& facts) noexcept {
  const int saved_errno = errno;
  try {
    fmt::memory_buffer message;
    fmt::detail::vformat_to(message, format, args, {});
    writer().write(level, std::string_view(message.data(), message.size()), facts);
  } catch (...) {
    dropped.fetch_add(1, std::memory_order_relaxed);
  }
  errno = saved_errno;
}

}  // namespace log_internal

std::string_view log_level_name(LogLevel level) {
  switch (level) {
    case LogLevel::kError:
      return "error";
    case LogLevel::kWarn:
      return "warn";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kTrace:
      break;
  }
  return "trace";
}

std::optional<LogLevel> parse_log_level(std::string_view name) {
  for (int value = 0; value <= static_cast<int>(LogLevel::kTrace); ++value) {
    const auto level = static_cast<LogLevel>(value);
    if (name == log_level_name(level)) return level;
  }
  if (name == "warning") return LogLevel::kWarn;
  return std::nullopt;
}

LogLevel log_level() {
  return static_cast<LogLevel>(log_internal::max_level.load(std::memory_order_relaxed));
}

void set_log_level(LogLevel level) {
  log_internal::max_level.store(static_cast<int>(level), std::memory_order_relaxed);
}

void set_log_format(LogFormat format) { writer().set_json(format == LogFormat::kJson); }

void prepare_log() { writer().prepare(); }

void set_log_file(LogFile file) { writer().set_file(file); }

uint64_t log_lines_dropped() { return dropped.load(std::memory_order_relaxed); }

void open_standard_descriptors() {
  while (true) {
    const int fd = open("/dev/null", O_RDWR | O_NOCTTY);
    if (fd < 0) return;
    if (fd > STDERR_FILENO) {
      close(fd);
      return;
    }
  }
}

std::optional<uint64_t> RateLimit::allow(Instant now) {
  if (!window_start_ || now - *window_start_ >= std::chrono::seconds(1)) {
    window_start_ = now;
    used_ = 0;
  }
  if (used_ >= limit_) {
    ++suppressed_;
    if (of_ == Of::kLines) count_suppressed_line();
    return std::nullopt;
  }
  ++used_;
  const uint64_t hidden = suppressed_;
  suppressed_ = 0;
  return hidden;
}

std::string and_others(uint64_t hidden) {
  return hidden > 0 ? fmt::format(" (and {} others)", hidden) : "";
}

}  // namespace virtproxy
