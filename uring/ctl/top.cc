#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "uring/base/readable.h"
#include "uring/ctl/control_client.h"
#include "uring/ctl/follow.h"

namespace virtproxy::ctl {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr int kIntervalMs = 1000;
constexpr size_t kWidthWithoutTerminal = 80;
constexpr size_t kLinesAround =
    4;  // of the process, an empty one, the names of the columns, the last
constexpr size_t kRowsWithoutTerminal = 20;

// A terminal that gives keys at once and does not show them. It is put back at the end.
class RawTerminal {
 public:
  RawTerminal() {
    if (isatty(STDIN_FILENO) != 1 || tcgetattr(STDIN_FILENO, &before_) != 0) return;
    termios raw = before_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    changed_ = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
  }
  ~RawTerminal() {
    if (changed_) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

 private:
  termios before_{};
  bool changed_ = false;
};

struct Bytes {
  uint64_t sent = 0;
  uint64_t received = 0;
};

std::string shown(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return "-";
  return found->is_string() ? found->get<std::string>() : found->dump();
}

uint64_t number_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<uint64_t>() : 0;
}

std::string time_of(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return "-";
  return readable_time(static_cast<uint64_t>(std::llround(found->get<double>() * 1000)));
}

// What does not fit ends with a mark.
std::string cut(std::string text, size_t width) {
  if (text.size() > width) text = text.substr(0, width - 1) + "~";
  return text;
}

class Screen {
 public:
  explicit Screen(bool colours) : colours_(colours) {}

  // In lines of at most `width` characters.
  std::string draw(const json& status, const json& streams, size_t width, Clock::time_point now) {
    std::string text =
        cut(fmt::format("virtproxy {}  pid {}  {}  up {}  channels {}/{}  streams {}  buffered {}",
                        shown(status, "version"), shown(status, "pid"), shown(status, "state"),
                        time_of(status, "uptime"), shown(status, "channels_up"),
                        shown(status, "channels"), shown(status, "streams"),
                        readable_bytes(number_of(status, "buffered"))),
            width);
    const std::string head =
        row("STREAM", "SERVICE", "AGE", "SENT/s", "RECV/s", "SENT", "RECV", "WAITS FOR");
    text += "\n\n" + in_colour("7", cut(head, width)) + "\n";
    const double passed = std::chrono::duration<double>(now - drawn_at_).count();
    std::map<std::string, Bytes> seen;
    for (const json& stream : streams) {
      const std::string name = shown(stream, "stream");
      const Bytes bytes{number_of(stream, "sent"), number_of(stream, "received")};
      const auto before = before_.find(name);
      std::string sent = "-";
      std::string received = "-";
      if (before != before_.end() && passed > 0) {
        sent = rate(bytes.sent - before->second.sent, passed);
        received = rate(bytes.received - before->second.received, passed);
      }
      const std::string waits = shown(stream, "waits_for");
      const std::string line =
          cut(row(name, shown(stream, "service"), time_of(stream, "age"), sent, received,
                  readable_bytes(bytes.sent), readable_bytes(bytes.received),
                  waits == "-" ? "" : waits + " " + time_of(stream, "waiting")),
              width);
      text += (waits == "-" ? line : in_colour("33", line)) + "\n";
      seen.emplace(name, bytes);
    }
    before_ = std::move(seen);
    drawn_at_ = now;
    return text;
  }

 private:
  static std::string row(const std::string& stream, const std::string& service,
                         const std::string& age, const std::string& sent_rate,
                         const std::string& received_rate, const std::string& sent,
                         const std::string& received, const std::string& waits) {
    std::string line =
        fmt::format("{:<14} {:<12} {:>6} {:>6} {:>6} {:>6} {:>6} {}", cut(stream, 14),
                    cut(service, 12), age, sent_rate, received_rate, sent, received, waits);
    line.erase(line.find_last_not_of(' ') + 1);
    return line;
  }
  static std::string rate(uint64_t bytes, double seconds) {
    return readable_bytes(static_cast<uint64_t>(static_cast<double>(bytes) / seconds));
  }
  std::string in_colour(const char* code, const std::string& line) const {
    if (!colours_) return line;
    return fmt::format("\x1b[{}m{}\x1b[0m", code, line);
  }

  const bool colours_;
  std::map<std::string, Bytes> before_;
  Clock::time_point drawn_at_{};
};

struct Room {
  size_t streams = kRowsWithoutTerminal;
  size_t width = kWidthWithoutTerminal;
};

Room room_of_terminal() {
  Room room;
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) return room;
  if (size.ws_row > kLinesAround) room.streams = size.ws_row - kLinesAround;
  if (size.ws_col > 0) room.width = size.ws_col;
  return room;
}

// False when the user wants to leave.
bool wait_for_next(Clock::time_point until) {
  while (true) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
    if (left <= 0) return true;
    pollfd input{STDIN_FILENO, POLLIN, 0};
    if (poll(&input, 1, static_cast<int>(left)) <= 0) continue;
    char key = 0;
    if (read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q') return false;
  }
}

}  // namespace

Shown top(const std::string& socket_path, const std::string& sort) {
  const bool terminal = isatty(STDOUT_FILENO) == 1;
  const RawTerminal raw;
  Screen screen(terminal);
  while (true) {
    const auto now = Clock::now();
    const Room room = room_of_terminal();
    const auto status = ask_daemon(socket_path, "status --json");
    if (!status) return tl::unexpected(status.error());
    const auto streams = ask_daemon(
        socket_path, fmt::format("streams --sort {} --limit {} --json", sort, room.streams));
    if (!streams) return tl::unexpected(streams.error());
    const json process = json::parse(*status, nullptr, false);
    const json rows = json::parse(*streams, nullptr, false);
    if (!process.is_object() || !rows.is_array()) {
      return tl::unexpected<std::string>("the daemon's answer is no table");
    }
    const std::string text = screen.draw(process, rows, room.width, now);
    if (!terminal) return text;
    // Home, and each line without what was behind it before.
    std::string shown = "\x1b[H";
    for (const char c : text) shown += c == '\n' ? std::string("\x1b[K\n") : std::string(1, c);
    shown += "\x1b[J";
    if (std::fputs(shown.c_str(), stdout) < 0 || std::fflush(stdout) != 0) return std::string();
    if (!wait_for_next(now + std::chrono::milliseconds(kIntervalMs))) return std::string("\n");
  }
}

}  // namespace virtproxy::ctl
