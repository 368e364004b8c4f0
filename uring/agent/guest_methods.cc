// The guest's methods: those that read, and those that the operator has to allow.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "uring/agent/agent.h"
#include "uring/agent/guest_info.h"

namespace virtproxy::agent {
namespace {

constexpr size_t kMostOnPort = 48 * 1024;  // bytes of a file in one answer
constexpr size_t kMostOnStream = 1024 * 1024;
constexpr size_t kMostLogOnPort = 96 * 1024;

Error unsupported(const std::string& text) { return error_of(ErrorCode::kUnsupported, text); }

}  // namespace

Agent::Reply Agent::serve_guest(Link& link, uint64_t token, const std::string& method,
                                const Json& arguments) {
  const auto in_child = [&](std::function<Result()> work, Duration limit) {
    start_job(link, token, JobKind::kMethod, Child::run(work), limit);
    return Reply();
  };
  if (method == "guest-get-time") return Result(Json(wall_clock()));
  if (method == "guest-get-host-name") return host_name();
  if (method == "guest-get-osinfo") return os_info();
  if (method == "guest-get-timezone") return time_zone();
  if (method == "guest-get-users") return users();
  if (method == "guest-get-load") return load();
  if (method == "guest-get-vcpus") return vcpus();
  if (method == "guest-network-get-interfaces") return network_interfaces();
  if (method == "guest-get-fsinfo") return in_child(file_systems, std::chrono::seconds(2));
  if (method == "va-dmesg") {
    const auto bytes = static_cast<size_t>(arguments.value("bytes", int64_t{16384}));
    if (link.source == Source::kPort && bytes > kMostLogOnPort) {
      return tl::unexpected(error_of(ErrorCode::kTooLarge, "bytes is at most 98304 on a port"));
    }
    return dmesg(bytes);
  }
  if (method == "guest-set-time") return set_time(arguments);
  if (method == "guest-shutdown" || method == "va-shutdown") {
    return start_shutdown(link, token, method, arguments);
  }
  if (method == "guest-fsfreeze-status") return Result(Json(usable() ? "thawed" : "frozen"));
  if (method == "guest-fsfreeze-freeze") return start_freeze(link, token);
  if (method == "guest-fsfreeze-thaw") return start_thaw(link, token);
  if (method == "guest-fstrim") {
    const auto minimum = static_cast<uint64_t>(arguments.value("minimum", int64_t{0}));
    return in_child([minimum] { return trim(minimum); }, std::chrono::minutes(5));
  }
  if (method == "va-hook") {
    const auto hook = options_.rules.hooks.find(arguments["name"].get_ref<const std::string&>());
    if (hook == options_.rules.hooks.end()) {
      return tl::unexpected(error_of(ErrorCode::kNotFound, "there is no hook of that name"));
    }
    std::vector<std::string> list;
    for (const Json& item : arguments.value("args", Json::array())) {
      list.push_back(item.get<std::string>());
      if (list.back().find('\0') != std::string::npos) {
        return tl::unexpected(error_of(ErrorCode::kBadArgument, "an argument has no NUL"));
      }
    }
    start_job(link, token, JobKind::kHook, Child::execute(hook->second, list),
              std::chrono::seconds(30));
    return std::nullopt;
  }
  return serve_files(link, token, method, arguments);
}

Agent::Reply Agent::serve_files(Link& link, uint64_t token, const std::string& method,
                                const Json& arguments) {
  if (method == "guest-file-open") return link.files.open(read_, write_, arguments, now_);
  if (method == "guest-file-read") {
    return link.files.read(arguments, link.source == Source::kPort ? kMostOnPort : kMostOnStream,
                           now_);
  }
  if (method == "guest-file-write") return link.files.write(arguments, now_);
  if (method == "guest-file-seek") return link.files.seek(arguments, now_);
  if (method == "guest-file-flush") return link.files.flush(arguments, now_);
  if (method == "guest-file-close") return link.files.close(arguments, now_);
  if (method == "va-get") {
    auto file = read_.open_file(arguments["path"].get_ref<const std::string&>(), O_RDONLY, 0);
    if (!file) return tl::unexpected(file.error());
    const auto offset = arguments.value("offset", uint64_t{0});
    const uint64_t there = file->size - std::min(file->size, offset);
    const uint64_t length = std::min(there, arguments.value("length", there));
    if (lseek(file->fd.get(), static_cast<off_t>(offset), SEEK_SET) < 0) {
      return tl::unexpected(errno_error("cannot seek", errno));
    }
    // The line goes out first; the bytes follow, and then the end.
    link.download = Download{std::move(file->fd), length, 0, token};
    link.conversation.answer(token, Json{{"size", length}}, now_);
    return std::nullopt;
  }
  if (method == "va-put") {
    auto upload = Upload::begin(write_, arguments, options_.rules.max_put);
    if (!upload) return tl::unexpected(upload.error());
    link.upload = std::move(*upload);
    link.upload_token = token;
    link.conversation.post_event(encode_event("va-continue", Json::object(), wall_time()), now_);
    return std::nullopt;
  }
  return tl::unexpected(unsupported(method + " is not served"));
}

Agent::Reply Agent::start_shutdown(Link& link, uint64_t token, const std::string& method,
                                   const Json& arguments) {
  const std::string mode = arguments.value("mode", "powerdown");
  const std::string option = mode == "powerdown" ? "-P"
                             : mode == "halt"    ? "-H"
                             : mode == "reboot"  ? "-r"
                                                 : "";
  if (option.empty()) {
    return tl::unexpected(
        error_of(ErrorCode::kBadArgument, "mode must be powerdown, halt or reboot"));
  }
  if (shutting_down_) {
    return tl::unexpected(error_of(ErrorCode::kShuttingDown, "a shutdown is under way"));
  }
  shutting_down_ = true;
  if (method == "va-shutdown") {
    // The answer is out before the system goes down.
    shutdown_option_ = option;
    shutdown_at_ = now_ + std::chrono::seconds(1);
    return Result(Json::object());
  }
  start_job(link, token, JobKind::kShutdown, Child::execute("/sbin/shutdown", {option, "+0"}),
            kShutdownLimit);
  return std::nullopt;
}

}  // namespace virtproxy::agent
