// The host's methods. The host opens nothing that the guest names, runs nothing and keeps nothing
// of a call.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "uring/agent/agent.h"
#include "uring/agent/guest_info.h"

namespace virtproxy::agent {
namespace {

Error too_often(const std::string& text) { return error_of(ErrorCode::kRateLimited, text); }

bool is_word(const std::string& text, std::string_view also) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
           also.find(c) != std::string_view::npos;
  });
}

// Tells systemd that the guest is up, if it waits for that; sd_notify(3) has the protocol.
void notify_ready() {
  const char* const path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  if (path == nullptr || std::strlen(path) >= sizeof address.sun_path) return;
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, path);
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
  const UniqueFd fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  constexpr std::string_view kReady = "READY=1";
  (void)sendto(fd.get(), kReady.data(), kReady.size(), MSG_NOSIGNAL,
               reinterpret_cast<const sockaddr*>(&address),
               static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::strlen(path)));
}

}  // namespace

Agent::Reply Agent::serve_host(Link& link, const std::string& method, const Json& arguments) {
  if (method == "host-get-time") {
    if (!time_rate_.take(now_))
      return tl::unexpected(too_often("the time is told ten times a second"));
    return Result(Json(wall_clock()));
  }
  if (method == "host-log") {
    if (!log_rate_.take(now_)) {
      ++logs_dropped_;
      return tl::unexpected(too_often("100 messages a second are logged, and 200 at once"));
    }
    const auto level = arguments["level"].get<int>();
    Json line = {{"tag", arguments["tag"]}, {"message", arguments["message"]}};
    if (arguments.contains("fields")) {
      if (arguments["fields"].size() > 16) {
        return tl::unexpected(error_of(ErrorCode::kTooLarge, "fields has more than 16 members"));
      }
      line["fields"] = arguments["fields"];
    }
    // In ASCII: nothing of it can move a terminal or begin another line.
    log_at(level <= 3   ? LogLevel::kError
           : level == 4 ? LogLevel::kWarn
                        : LogLevel::kInfo,
           "guest log {} {}", level, line.dump(-1, ' ', true, Json::error_handler_t::replace));
    return Result(Json{{"dropped", std::exchange(logs_dropped_, 0)}});
  }
  if (method == "host-notify") {
    const auto event = arguments["event"].get<std::string>();
    if (!is_word(event, "-")) {
      return tl::unexpected(
          error_of(ErrorCode::kBadArgument, "event has 1 to 64 of a-z, 0-9 and -"));
    }
    if (!notify_rate_.take(now_))
      return tl::unexpected(too_often("20 events a second are passed on"));
    if (event == "ready") notify_ready();
    emit("va-notify", {{"event", event}, {"data", arguments.value("data", Json::object())}});
    return Result(Json::object());
  }
  if (method == "host-get-metadata") {
    const auto key = arguments["key"].get<std::string>();
    if (!is_word(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_.") || key.starts_with('.')) {
      return tl::unexpected(
          error_of(ErrorCode::kBadArgument,
                   "key has 1 to 64 letters, digits, - _ and ., and begins with no ."));
    }
    if (!metadata_rate_.take(now_)) return tl::unexpected(too_often("20 values a second are told"));
    std::string directory = options_.rules.metadata;
    while (directory.ends_with('/')) directory.pop_back();
    const auto file = metadata_.open_file(directory + "/" + key, O_RDONLY, 0);
    if (!file) {
      // The path is no concern of the guest's.
      Error error = file.error();
      error.text = "there is no metadata of that name";
      return tl::unexpected(std::move(error));
    }
    std::string text(16384, '\0');
    const ssize_t size = read(file->fd.get(), text.data(), text.size());
    if (size < 0 || file->size > text.size()) {
      return tl::unexpected(error_of(ErrorCode::kTooLarge, "the value has more than 16 KiB"));
    }
    text.resize(static_cast<size_t>(size));
    return Result(Json(text));
  }
  return tl::unexpected(
      error_of(ErrorCode::kUnsupported, method + " is not served on " + link.who));
}

}  // namespace virtproxy::agent
