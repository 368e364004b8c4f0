// The options as a configuration file.

#include <algorithm>

#include "uring/daemon/option_table.h"
#include "uring/daemon/options.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

using namespace option_scope;

std::string string_of(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

// Bare where TOML permits it.
std::string key_of(std::string_view name) {
  const bool bare = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
  });
  return bare ? std::string(name) : string_of(name);
}

bool is_bare(OptionKind kind) {
  return kind == OptionKind::kCount || kind == OptionKind::kSeconds || kind == OptionKind::kUsers ||
         kind == OptionKind::kGroups || kind == OptionKind::kCids;
}

std::string value_of(const OptionRow& row, const std::vector<std::string>& shown) {
  const auto one = [&](const std::string& text) {
    if (row.kind == OptionKind::kSwitch) return std::string(text == "on" ? "true" : "false");
    return is_bare(row.kind) ? text : string_of(text);
  };
  if (!row.is_list()) return one(shown.front());
  std::string list;
  for (const std::string& text : shown) list += (list.empty() ? "" : ", ") + one(text);
  return "[" + list + "]";
}

// The keys of the scope; those of `beside`, where they have the same value there, are left out.
void print_rows(std::string& text, unsigned scope, const ProcessSettings& process,
                const ChannelSettings& settings, const ChannelSettings* beside) {
  for (const OptionRow& row : option_table()) {
    if (!row.in(scope) || row.show == nullptr) continue;
    const auto shown = row.show(row, process, settings);
    if (shown.empty()) continue;
    if (beside != nullptr && shown == row.show(row, process, *beside)) continue;
    text += std::string(row.file_key()) + " = " + value_of(row, shown) + "\n";
  }
}

// As the command line has it, which leaves no doubt.
std::string address_of(const Address& address) {
  switch (address.kind) {
    case Address::Kind::kUnix:
      return address.host + ":-";
    case Address::Kind::kDevice:
      return address.host + ":" + (address.port == 0 ? "-" : std::to_string(address.port));
    case Address::Kind::kTcp:
      return address.to_string();
    case Address::Kind::kVsock:
      break;
  }
  return address.host + ":" + std::to_string(address.port);
}

// What stands in the table of the channel. Lists that guard nothing in it would be errors there;
// those of clients stand in the tables of the forwards.
ChannelSettings shown_settings(const ChannelOptions& channel) {
  ChannelSettings settings = channel.settings;
  settings.max_streams = channel.max_streams;
  settings.client_uids.clear();
  settings.client_gids.clear();
  const bool listens = transport_listens(channel.transport);
  if (!listens || channel.address.kind != Address::Kind::kUnix) {
    settings.peer_uids.clear();
    settings.peer_gids.clear();
  }
  if (!listens || channel.address.kind != Address::Kind::kVsock) settings.peer_cids.clear();
  return settings;
}

ChannelSettings listener_settings(const ForwardSpec& forward, ChannelSettings settings) {
  settings.priority = forward.priority;
  settings.when_down = forward.when_down;
  const bool is_unix = forward.address.kind == Address::Kind::kUnix;
  settings.client_uids = is_unix ? forward.clients.uids : std::vector<uid_t>{};
  settings.client_gids = is_unix ? forward.clients.gids : std::vector<gid_t>{};
  if (is_unix) {
    settings.mode = forward.listen.mode;
    settings.owner = {forward.listen.owner, forward.listen.group};
  }
  settings.allow_remote = forward.listen.allow_remote;
  return settings;
}

ChannelSettings service_settings(const ForwardSpec& forward, ChannelSettings settings) {
  if (forward.connect_timeout) {
    settings.connect_timeout = seconds_of(*forward.connect_timeout);
  }
  return settings;
}

// Forwards of one service that differ in nothing but where they listen.
struct Group {
  std::string service;
  std::string rows;
  std::vector<std::string> addresses;
};

void print_forwards(std::string& text, const Options& options, const ChannelOptions& channel,
                    bool listens) {
  const ChannelSettings shown = shown_settings(channel);
  std::vector<Group> groups;
  for (const ForwardSpec& forward : listens ? options.oforwards : options.iforwards) {
    if (forward.id != channel.id) continue;
    Group group{forward.service, {}, {}};
    print_rows(group.rows, listens ? kListen : kOffer, options.process,
               listens ? listener_settings(forward, channel.settings)
                       : service_settings(forward, channel.settings),
               &shown);
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const Group& each) {
      return each.service == group.service && each.rows == group.rows;
    });
    Group& into = same == groups.end() ? groups.emplace_back(std::move(group)) : *same;
    into.addresses.push_back(string_of(address_of(forward.address)));
  }
  for (const Group& group : groups) {
    const auto others = std::count_if(groups.begin(), groups.end(), [&](const Group& each) {
      return each.service == group.service;
    });
    const std::string name = "channel." + key_of(channel.name) +
                             (listens ? ".listen." : ".offer.") + key_of(group.service);
    text += others > 1 ? "\n[[" + name + "]]\n" : "\n[" + name + "]\n";
    std::string list;
    for (const std::string& address : group.addresses) {
      list += (list.empty() ? "" : ", ") + address;
    }
    text += listens ? "at = " : "to = ";
    text += group.addresses.size() == 1 ? list : "[" + list + "]";
    text += "\n" + group.rows;
  }
}

}  // namespace

std::string print_config(const Options& options) {
  std::string text = "[process]\n";
  ProcessSettings process = options.process;
  if (options.memory >= option_ranges::kMinMemory) process.memory = options.memory;
  print_rows(text, kProcess, process, {}, nullptr);
  if (!options.process.ship_sources.empty()) {
    text += "\n[ship]\n";
    print_rows(text, kShip, options.process, {}, nullptr);
  }
  std::string collect;
  print_rows(collect, kCollect, process, {}, nullptr);
  if (!collect.empty()) text += "\n[collect]\n" + collect;
  for (const ChannelOptions& channel : options.channels) {
    text += "\n[channel." + key_of(channel.name) + "]\n";
    text += "transport = " +
            string_of(std::string(transport_name(channel.transport)) + ":" +
                      address_of(channel.address)) +
            "\n";
    std::string rows;
    print_rows(rows, kDefaults, options.process, shown_settings(channel), nullptr);
    if (channel.address.kind != Address::Kind::kTcp) {
      // A time-out of TCP is an error on any other channel.
      const size_t at = rows.find("peer-timeout");
      if (at != std::string::npos) rows.erase(at, rows.find('\n', at) + 1 - at);
    }
    text += rows;
    print_forwards(text, options, channel, true);
    print_forwards(text, options, channel, false);
  }
  return text;
}

}  // namespace virtproxy
