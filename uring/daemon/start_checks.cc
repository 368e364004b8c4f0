#include "uring/daemon/start_checks.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "uring/transport/device_check.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

using Failure = tl::unexpected<std::string>;

// What a path leads to, if it is there and may be looked at.
std::optional<struct stat> look_at(const Address& address) {
  const bool path = address.kind == Address::Kind::kDevice ||
                    (address.kind == Address::Kind::kUnix && !address.host.starts_with('@'));
  struct stat status {};
  if (!path || stat(address.host.c_str(), &status) != 0) return std::nullopt;
  return status;
}

std::string device_kinds() {
  std::string names;
  for (const TransportKind& kind : transport_kinds()) {
    if (!transport_is_device(&kind)) continue;
    if (!names.empty()) names += " or ";
    names += kind.name;
  }
  return names;
}

std::string socket_fault(const Address& address, mode_t mode) {
  return fmt::format("{} is {}, no socket{}", printable(address.host), name_of_type(mode),
                     S_ISCHR(mode) ? ": a device is a channel of " + device_kinds()
                                   : std::string(": give the path of a unix socket"));
}

}  // namespace

tl::expected<void, std::string> check_paths(const Options& options) {
  std::map<std::pair<uint64_t, uint64_t>, std::string> users;
  for (const ChannelSpec& channel : options.channels) {
    if (transport_listens(channel.transport)) continue;
    const auto status = look_at(channel.address);
    if (!status) continue;
    std::pair<uint64_t, uint64_t> key{status->st_dev, status->st_ino};
    if (transport_is_device(channel.transport)) {
      if (const auto fault = device_fault(*status)) {
        return Failure(
            fmt::format("{}: {} {}", channel.text, printable(channel.address.host), *fault));
      }
      key = {UINT64_MAX, status->st_rdev};
    } else if (!S_ISSOCK(status->st_mode)) {
      return Failure(
          fmt::format("{}: {}", channel.text, socket_fault(channel.address, status->st_mode)));
    }
    if (const auto [other, fresh] = users.emplace(key, channel.text); !fresh) {
      return Failure(
          fmt::format("{}: that is the same as {} under another name: give each "
                      "channel its own",
                      channel.text, other->second));
    }
  }
  for (const ForwardSpec& forward : options.iforwards) {
    const auto status = look_at(forward.address);
    if (!status || S_ISSOCK(status->st_mode)) continue;
    return Failure(
        fmt::format("{}: {}", forward.text, socket_fault(forward.address, status->st_mode)));
  }
  return {};
}

std::vector<std::string> unguarded(const Options& options) {
  std::vector<std::string> lines;
  const auto is_abstract = [](const Address& address) {
    return address.kind == Address::Kind::kUnix && address.host.starts_with('@');
  };
  for (const ForwardSpec& forward : options.oforwards) {
    if (forward.clients.guards_unix() && forward.address.kind == Address::Kind::kTcp) {
      lines.push_back("-o " + forward.text +
                      ": TCP does not tell who connects, --allow-uid and --allow-gid do not guard "
                      "it");
    }
    if (forward.listen.mode && is_abstract(forward.address) && !forward.clients.guards_unix()) {
      lines.push_back(
          "-o " + forward.text +
          ": an abstract socket has no mode, only --allow-uid and --allow-gid guard it");
    }
  }
  for (const ChannelOptions& channel : options.channels) {
    const bool guarded = !channel.settings.peer_uids.empty() || !channel.settings.peer_gids.empty();
    if (channel.listen.mode && transport_listens(channel.transport) &&
        is_abstract(channel.address) && !guarded) {
      lines.push_back("-c " + channel.text +
                      ": an abstract socket has no mode, only --channel-allow-uid and "
                      "--channel-allow-gid guard it");
    }
    const ChannelSettings& settings = channel.settings;
    if (settings.protocol == ProtocolMode::kV1 && settings.integrity == Integrity::kChecksum) {
      lines.push_back("-c " + channel.text +
                      ": protocol 1 has no checksums, --integrity checksum does not guard it");
    }
  }
  return lines;
}

std::vector<std::string> idle_modes(const Options& options) {
  bool given = false;
  bool useful = false;
  const auto look = [&](const ListenRules& rules, const Address& address, bool listens) {
    // Without an owner of its own a socket is given to the user of --user.
    const auto& user = options.process.user;
    given |= rules.mode || (rules.owner && !(user && rules.owner == user->uid)) ||
             (rules.group && !(user && rules.group == user->gid));
    useful |= listens && address.kind == Address::Kind::kUnix && !address.host.starts_with('@');
  };
  for (const ForwardSpec& forward : options.oforwards) look(forward.listen, forward.address, true);
  for (const ChannelOptions& channel : options.channels) {
    look(channel.listen, channel.address, transport_listens(channel.transport));
  }
  if (!given || useful) return {};
  return {
      "--socket-mode and --socket-owner have no effect: this process listens on no path of a unix "
      "socket"};
}

std::vector<std::string> idle_channels(const Options& options) {
  std::vector<std::string> lines;
  if (!options.process.collect.empty()) return lines;
  for (const ChannelOptions& channel : options.channels) {
    if (&channel == shipping_channel(options)) continue;
    const auto is_of_it = [&](const ForwardSpec& forward) { return forward.id == channel.id; };
    if (std::any_of(options.oforwards.begin(), options.oforwards.end(), is_of_it) ||
        std::any_of(options.iforwards.begin(), options.iforwards.end(), is_of_it)) {
      continue;
    }
    lines.push_back(
        fmt::format("channel {}: it has no forward: nothing can pass over {} without "
                    "-o or -i SERVICE:ADDRESS:PORT:{}",
                    channel.name, channel.text, channel.name));
  }
  return lines;
}

}  // namespace virtproxy
