#include "uring/daemon/start_checks.h"

#include <fmt/format.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <map>
#include <utility>

namespace virtproxy {
namespace {

using Failure = tl::unexpected<std::string>;

// null, zero, full, random, kmsg and others of drivers/char/mem.c.
constexpr unsigned kMemoryDevices = 1;

std::string_view name_of_type(mode_t mode) {
  if (S_ISREG(mode)) return "a regular file";
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  if (S_ISFIFO(mode)) return "a named pipe";
  return "a socket";
}

// What a path leads to, if it is there and may be looked at.
std::optional<struct stat> look_at(const Endpoint& endpoint) {
  const bool path = endpoint.kind == Endpoint::Kind::kDevice ||
                    (endpoint.kind == Endpoint::Kind::kUnix && !endpoint.host.starts_with('@'));
  struct stat status {};
  if (!path || stat(endpoint.host.c_str(), &status) != 0) return std::nullopt;
  return status;
}

std::string socket_fault(const Endpoint& endpoint, mode_t mode) {
  return fmt::format("{} is {}, no socket{}", printable(endpoint.host), name_of_type(mode),
                     S_ISCHR(mode) ? ": a device is a channel of virtio-serial or isa-serial"
                                   : ": give the path of a unix socket");
}

}  // namespace

std::optional<std::string> device_fault(const struct stat& status) {
  if (!S_ISCHR(status.st_mode)) {
    return fmt::format("is {}, no character device{}", name_of_type(status.st_mode),
                       S_ISSOCK(status.st_mode)
                           ? ": use unix-connect"
                           : ": give a port such as /dev/virtio-ports/NAME or /dev/ttyS1");
  }
  if (major(status.st_rdev) == kMemoryDevices) {
    return "is a device of the kernel's memory, no port: give one such as /dev/virtio-ports/NAME "
           "or /dev/ttyS1";
  }
  return std::nullopt;
}

tl::expected<void, std::string> check_paths(const Options& options) {
  std::map<std::pair<uint64_t, uint64_t>, std::string> users;
  for (const ChannelSpec& channel : options.channels) {
    if (transport_listens(channel.transport)) continue;
    const auto status = look_at(channel.endpoint);
    if (!status) continue;
    std::pair<uint64_t, uint64_t> key{status->st_dev, status->st_ino};
    if (transport_is_device(channel.transport)) {
      if (const auto fault = device_fault(*status)) {
        return Failure(fmt::format("{}: {} {}", channel.text, printable(channel.endpoint.host),
                                   *fault));
      }
      key = {UINT64_MAX, status->st_rdev};
    } else if (!S_ISSOCK(status->st_mode)) {
      return Failure(
          fmt::format("{}: {}", channel.text, socket_fault(channel.endpoint, status->st_mode)));
    }
    if (const auto [other, fresh] = users.emplace(key, channel.text); !fresh) {
      return Failure(fmt::format("{}: that is the same as {} under another name: give each "
                                 "channel its own",
                                 channel.text, other->second));
    }
  }
  for (const ForwardSpec& forward : options.iforwards) {
    const auto status = look_at(forward.endpoint);
    if (!status || S_ISSOCK(status->st_mode)) continue;
    return Failure(
        fmt::format("{}: {}", forward.text, socket_fault(forward.endpoint, status->st_mode)));
  }
  return {};
}

std::vector<std::string> idle_channels(const Options& options) {
  std::vector<std::string> lines;
  for (const ChannelSpec& channel : options.channels) {
    const auto is_of_it = [&](const ForwardSpec& forward) { return forward.id == channel.id; };
    if (std::any_of(options.oforwards.begin(), options.oforwards.end(), is_of_it) ||
        std::any_of(options.iforwards.begin(), options.iforwards.end(), is_of_it)) {
      continue;
    }
    lines.push_back(fmt::format("channel {} ({}) has no forward: nothing can pass over it without "
                                "-o or -i SERVICE:ADDRESS:PORT:{}",
                                channel.id, channel.text, channel.id));
  }
  return lines;
}

}  // namespace virtproxy
