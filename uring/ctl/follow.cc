#include "uring/ctl/follow.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "uring/ctl/control_client.h"

namespace virtproxy::ctl {
namespace {

using nlohmann::json;

constexpr auto kInterval = std::chrono::milliseconds(250);

std::string text_of(const json& event, const char* key) {
  const auto found = event.find(key);
  return found != event.end() && found->is_string() ? found->get<std::string>() : "";
}

std::string line_of(const json& event) {
  const std::string service = text_of(event, "service");
  return fmt::format("{}  {}  {}  {}{}\n", text_of(event, "time"), text_of(event, "channel"),
                     text_of(event, "event"), service.empty() ? "" : service + ": ",
                     text_of(event, "text"));
}

// Nothing that is written is lost in a buffer when a reader goes away.
bool print(const std::string& text) {
  return std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
}

// False once the reader of standard output is gone, or after an interval.
bool wait_for_more() {
  pollfd output{STDOUT_FILENO, 0, 0};
  return poll(&output, 1, static_cast<int>(kInterval.count())) <= 0 ||
         (output.revents & (POLLERR | POLLNVAL)) == 0;
}

}  // namespace

Shown follow_events(const std::string& socket_path, const std::string& channel, bool as_json) {
  uint64_t last = 0;
  do {
    const auto answer = ask_daemon(socket_path, "events" + (channel.empty() ? "" : " " + channel) +
                                                    fmt::format(" --after {} --json", last));
    if (!answer) return tl::unexpected(answer.error());
    const json events = json::parse(*answer, nullptr, false);
    if (!events.is_array()) return tl::unexpected<std::string>("the daemon's answer is no list");
    std::string text;
    for (const json& event : events) {
      const uint64_t number = event.value("number", uint64_t{0});
      // Of one channel the numbers have gaps anyway.
      if (channel.empty() && last > 0 && number > last + 1) {
        const uint64_t lost = number - last - 1;
        text += as_json ? json{{"lost", lost}}.dump() + "\n"
                        : fmt::format("({} events are gone: too many came at once)\n", lost);
      }
      last = number;
      text += as_json ? event.dump() + "\n" : line_of(event);
    }
    if (!print(text)) break;
  } while (wait_for_more());
  return std::string();
}

}  // namespace virtproxy::ctl
