#include "uring/ctl/control_client.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstring>

#include "uring/base/read_append.h"
#include "uring/base/text.h"
#include "uring/base/unique_fd.h"
#include "uring/net/address.h"

namespace virtproxy::ctl {
namespace {

constexpr timeval kPatience{10, 0};
constexpr std::string_view kError = "error: ";
constexpr std::string_view kJsonError = R"({"error":)";

// Why a connection to the path has failed, with this errno.
std::string advice(const std::string& path, int error) {
  if (is_other_than_socket(path)) {
    return "that is no socket: give the path of the daemon's --control";
  }
  switch (error) {
    case ENOENT:
      return "there is no such socket: is the daemon running with --control PATH?";
    case ECONNREFUSED:
      return "the daemon is not running any more";
    case EACCES:
    case EPERM:
      return "no permission: only the daemon's user and root may use it";
    default:
      return std::strerror(error);
  }
}

}  // namespace

tl::expected<std::string, std::string> ask_daemon(const std::string& socket_path,
                                                  const std::string& command) {
  const auto fail = [&](std::string_view what) {
    return tl::unexpected(fmt::format("--control {}: {}", printable(socket_path), what));
  };
  const auto address = to_socket_address({Address::Kind::kUnix, socket_path, 0});
  if (socket_path.empty() || !address) return fail("no path of a unix socket");
  const UniqueFd connection(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int fd = connection.get();
  if (fd < 0) return fail(std::strerror(errno));
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
  if (connect(fd, address->data(), address->length) != 0) {
    return fail(advice(socket_path, errno));
  }
  const std::string line = command + "\n";
  if (send(fd, line.data(), line.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(line.size())) {
    return fail(std::strerror(errno));
  }
  std::string answer;
  while (!answer.ends_with("\n\n")) {
    const size_t had = answer.size();
    const ssize_t got = read_append(fd, answer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN)
      return fail("no answer: the daemon stands still, or what listens there is no control socket");
    if (got < 0) return fail(std::strerror(errno));
    if (got == 0) return fail("the daemon closed the connection before its answer was complete");
    // A channel's socket sends greetings for ever.
    if (answer.find('\0', had) != std::string::npos) {
      return fail("what answers is no daemon's control socket: give the path of its --control");
    }
  }
  answer.pop_back();
  if (answer.starts_with(kError)) {
    return tl::unexpected(answer.substr(kError.size(), answer.size() - kError.size() - 1));
  }
  if (answer.starts_with(kJsonError)) return tl::unexpected(answer.substr(0, answer.size() - 1));
  return answer;
}

}  // namespace virtproxy::ctl
