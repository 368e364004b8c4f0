#include "uring/daemon/security_options.h"

#include <CLI/CLI.hpp>

#include "uring/daemon/options.h"

namespace virtproxy {
namespace {

bool is_abstract(const Address& address) {
  return address.kind == Address::Kind::kUnix && address.host.starts_with('@');
}

bool listens_on(const Options& options, Address::Kind kind, bool channels) {
  if (channels) {
    return std::any_of(options.channels.begin(), options.channels.end(), [&](const auto& channel) {
      return transport_listens(channel.transport) && channel.address.kind == kind;
    });
  }
  return std::any_of(options.oforwards.begin(), options.oforwards.end(),
                     [&](const auto& forward) { return forward.address.kind == kind; });
}

template <typename Id, typename Find>
std::optional<std::string> read_list(const std::string& option,
                                     const std::vector<std::string>& args, const Find& find,
                                     std::vector<Id>& into) {
  for (const std::string& arg : args) {
    std::string_view rest = arg;
    for (bool more = true; more;) {
      const size_t comma = rest.find(',');
      more = comma != std::string_view::npos;
      const auto id = find(rest.substr(0, comma));
      if (!id) return option + ": " + id.error();
      into.push_back(*id);
      if (more) rest.remove_prefix(comma + 1);
    }
  }
  return std::nullopt;
}

tl::expected<uint32_t, std::string> find_cid(std::string_view text) {
  if (text == "host") return 2;
  if (text == "local") return 1;
  if (const auto cid = parse_number<uint32_t>(text)) return *cid;
  return tl::unexpected("'" + printable(text) + "' is not a CID: give a number, host or local");
}

std::optional<std::string> read_mode(const std::string& text, std::optional<mode_t>& mode) {
  const auto bits = parse_number<mode_t>(text, 8);
  if (!bits || *bits > 0777) {
    return "--socket-mode '" + printable(text) +
           "' is not a mode: give an octal number from 0 to 0777, such as 0660";
  }
  mode = bits;
  return std::nullopt;
}

// USER, USER:GROUP or :GROUP.
std::optional<std::string> read_owner(const std::string& text, ListenRules& rules) {
  const std::string_view whole = text;
  const size_t colon = whole.find(':');
  if (const auto name = whole.substr(0, colon); !name.empty() || colon == std::string_view::npos) {
    const auto uid = find_user(name);
    if (!uid) return "--socket-owner: " + uid.error();
    rules.owner = *uid;
  }
  if (colon != std::string_view::npos) {
    const auto gid = find_group(whole.substr(colon + 1));
    if (!gid) return "--socket-owner: " + gid.error();
    rules.group = *gid;
  }
  return std::nullopt;
}

// A list that guards nothing was meant for something.
std::optional<std::string> check_lists(const Options& options) {
  const SecurityOptions& of = options.security;
  using Kind = Address::Kind;
  if (of.clients.guards_unix() && !listens_on(options, Kind::kUnix, false)) {
    return "--allow-uid and --allow-gid guard unix sockets given with -o, and there is none: "
           "TCP does not tell who connects";
  }
  if (of.peers.guards_unix() && !listens_on(options, Kind::kUnix, true)) {
    return "--channel-allow-uid and --channel-allow-gid guard unix-listen channels, and there is "
           "none";
  }
  if (of.peers.guards_vsock() && !listens_on(options, Kind::kVsock, true)) {
    return "--channel-allow-cid guards vsock-listen channels, and there is none";
  }
  return std::nullopt;
}

// Names are looked up, and then judged, when they are bound.
std::optional<std::string> check_remote(const Options& options) {
  if (options.security.listen.allow_remote) return std::nullopt;
  const auto far = [](const Address& address) {
    if (address.kind != Address::Kind::kTcp || address.needs_resolver()) return false;
    const auto known = to_socket_address(address);
    return known && !known->is_loopback();
  };
  for (const ChannelSpec& channel : options.channels) {
    if (transport_listens(channel.transport) && far(channel.address)) {
      return "-c " + channel.text + " " + remote_fault(channel.address);
    }
  }
  for (const ForwardSpec& forward : options.oforwards) {
    if (far(forward.address)) return "-o " + forward.text + " " + remote_fault(forward.address);
  }
  return std::nullopt;
}

}  // namespace

void declare_security_options(CLI::App& app, RawSecurityOptions& raw) {
  const std::string group = "Containment (names or numbers; lists may be repeated)";
  const auto one = [&](const std::string& name, std::optional<std::string>& into,
                       const std::string& what, const std::string& type) {
    app.add_option_function<std::string>(
           name, [&into](const std::string& value) { into = value; }, what)
        ->type_name(type)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
        ->group(group);
  };
  const auto list = [&](const std::string& name, std::vector<std::string>& into,
                        const std::string& what, const std::string& type) {
    app.add_option(name, into, what)
        ->type_name(type)
        ->expected(1)
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->group(group);
  };
  one("--user", raw.user,
      "Started as root, run as this user once every listener is bound: with the groups it has, or "
      "with GROUP alone. Devices and directories must be open to it",
      "USER[:GROUP]");
  one("--sandbox", raw.sandbox,
      "Filter system calls, confine files and ports, and as root without --user drop capabilities: "
      "on or off (default on)",
      "on|off");
  one("--socket-mode", raw.socket_mode,
      "Mode of the unix sockets it listens on (default: as the umask says). Abstract ones have "
      "none: use lists",
      "OCTAL");
  one("--socket-owner", raw.socket_owner, "Their owner (default: the user it runs as)",
      "[USER][:GROUP]");
  list("--allow-uid", raw.allow_uid, "Only these users may connect to unix sockets of -o",
       "USER,...");
  list("--allow-gid", raw.allow_gid, "The same by group; with both, either suffices", "GROUP,...");
  list("--channel-allow-uid", raw.channel_allow_uid,
       "Only these users may be the other end of unix-listen channels", "USER,...");
  list("--channel-allow-gid", raw.channel_allow_gid, "The same by group", "GROUP,...");
  list("--channel-allow-cid", raw.channel_allow_cid,
       "Only these CIDs may be the other end of vsock-listen channels", "CID,...");
  app.add_flag("--allow-remote", raw.allow_remote,
               "TCP listeners may have addresses that other machines reach; else only loopback")
      ->group(group);
}

std::optional<std::string> interpret_security_options(const RawSecurityOptions& raw,
                                                      Options& options) {
  SecurityOptions& into = options.security;
  if (raw.user) {
    auto account = find_account(*raw.user);
    if (!account) return "--user: " + account.error();
    into.user = *std::move(account);
    into.listen.owner = into.user->uid;
    into.listen.group = into.user->gid;
  }
  if (raw.sandbox) {
    if (*raw.sandbox != "on" && *raw.sandbox != "off") {
      return "--sandbox " + printable(*raw.sandbox) + ": it is on or off";
    }
    into.sandbox = *raw.sandbox == "on";
  }
  into.listen.allow_remote = raw.allow_remote;
  std::optional<std::string> fault;
  if (raw.socket_mode) fault = read_mode(*raw.socket_mode, into.listen.mode);
  if (!fault && raw.socket_owner) fault = read_owner(*raw.socket_owner, into.listen);
  if (!fault) fault = read_list("--allow-uid", raw.allow_uid, find_user, into.clients.uids);
  if (!fault) fault = read_list("--allow-gid", raw.allow_gid, find_group, into.clients.gids);
  if (!fault) {
    fault = read_list("--channel-allow-uid", raw.channel_allow_uid, find_user, into.peers.uids);
  }
  if (!fault) {
    fault = read_list("--channel-allow-gid", raw.channel_allow_gid, find_group, into.peers.gids);
  }
  if (!fault) {
    fault = read_list("--channel-allow-cid", raw.channel_allow_cid, find_cid, into.peers.cids);
  }
  if (!fault) fault = check_lists(options);
  if (!fault) fault = check_remote(options);
  return fault;
}

std::vector<std::string> unguarded(const Options& options) {
  const SecurityOptions& of = options.security;
  std::vector<std::string> lines;
  for (const ForwardSpec& forward : options.oforwards) {
    if (of.clients.guards_unix() && forward.address.kind == Address::Kind::kTcp) {
      lines.push_back("-o " + forward.text +
                      ": TCP does not tell who connects, --allow-uid and --allow-gid do not guard "
                      "it");
    }
    if (of.listen.mode && is_abstract(forward.address) && !of.clients.guards_unix()) {
      lines.push_back(
          "-o " + forward.text +
          ": an abstract socket has no mode, only --allow-uid and --allow-gid guard it");
    }
  }
  for (const ChannelSpec& channel : options.channels) {
    if (of.listen.mode && transport_listens(channel.transport) && is_abstract(channel.address) &&
        !of.peers.guards_unix()) {
      lines.push_back("-c " + channel.text +
                      ": an abstract socket has no mode, only --channel-allow-uid and "
                      "--channel-allow-gid guard it");
    }
  }
  return lines;
}

}  // namespace virtproxy
