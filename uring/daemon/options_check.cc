// What only shows when all channels and forwards are known: two that want the same thing, lists
// that guard nothing, listeners that others reach, memory that does not suffice.

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "uring/base/text.h"
#include "uring/base/units.h"
#include "uring/daemon/options_draft.h"
#include "uring/mux/memory_shares.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

using namespace option_ranges;
using AddressKind = Address::Kind;

// The same text for two addresses that cannot both be listened on, opened or connected to.
std::string exclusive_key(const Address& address) {
  if (address.kind == AddressKind::kDevice ||
      (address.kind == AddressKind::kUnix && !address.host.starts_with('@'))) {
    return std::filesystem::path(address.host).lexically_normal().string();
  }
  if (address.kind == AddressKind::kTcp) {
    if (const auto literal = parse_ip(address.host, static_cast<uint16_t>(address.port))) {
      return literal->to_string();
    }
  }
  std::string key = address.to_string();
  if (address.needs_resolver()) {
    std::transform(key.begin(), key.end(), key.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  }
  return key;
}

const Origin& where(const Given& given, const OptionRow& row) {
  static const Origin kNowhere;
  const auto found = given.find(&row);
  return found == given.end() ? kNowhere : found->second;
}

// How the option is called where it was given.
std::string label_of(const OptionRow& row, const Origin& at) {
  return at.in_file() ? std::string(row.file_key()) : "--" + std::string(row.name);
}

// Datagrams have ports and abstract names of their own, apart from those of connections.
bool shares_no_name(const logs::SourceSpec& source) {
  return source.kind == logs::SourceKind::kUdp ||
         (source.kind == logs::SourceKind::kUnixDgram && source.address.host.starts_with('@'));
}

// What the process listens on for itself, beside the channels and forwards that are `users`.
void check_own_sockets(Draft& draft, std::map<std::string, std::string>& users) {
  // Returns what is called `text` as messages show it.
  const auto find_clash = [&](std::string_view option, const std::string& text,
                              const Address& address) {
    const OptionRow& row = option_row(option);
    const Origin& at = where(draft.given, row);
    std::string shown = label_of(row, at) + " " + text;
    if (const auto other = users.find(exclusive_key(address)); other != users.end()) {
      draft.complain(at, shown + " is already used by " + other->second,
                     "give each its own address");
    }
    return shown;
  };
  const ProcessSettings& process = draft.process;
  if (const auto& control = process.control) {
    const std::string shown = find_clash("control", control->host, *control);
    users.emplace(exclusive_key(*control), shown);
    if (control->host.starts_with('@')) {
      draft.complain(where(draft.given, option_row("control")),
                     shown +
                         " has no mode, so that every user of this machine could command the "
                         "daemon",
                     "give the path of a socket");
    }
  }
  if (const auto& metrics = process.metrics) {
    users.emplace(exclusive_key(*metrics), find_clash("metrics", metrics->to_string(), *metrics));
  }
  for (const logs::SourceSpec& source : process.ship_sources) {
    if (source.address.host.empty() || shares_no_name(source)) continue;
    // It is not added: two sources that want the same are found by check_shipping().
    find_clash("ship", printable(source.text), source.address);
  }
}

void check_exclusive(Draft& draft) {
  std::map<std::string, std::string> users;
  std::map<std::string, std::string> connecting;
  for (const ChannelDraft& channel : draft.channels) {
    if (!channel.usable) continue;
    const ChannelSpec& spec = channel.options;
    const bool connects =
        !transport_listens(spec.transport) && !transport_is_device(spec.transport);
    const auto [other, fresh] =
        (connects ? connecting : users).emplace(exclusive_key(spec.address), spec.text);
    if (fresh) continue;
    draft.complain_of(channel.at, spec.text,
                      spec.address.to_string() + " is already used by " + other->second,
                      connects ? "one peer takes one channel, so give each its own address"
                               : "give each its own address");
  }
  for (const ForwardDraft& forward : draft.oforwards) {
    const auto [other, fresh] =
        users.emplace(exclusive_key(forward.spec.address), forward.spec.text);
    if (fresh) continue;
    draft.complain_of(forward.at, forward.spec.text,
                      forward.spec.address.to_string() + " is already used by " + other->second,
                      "give each its own address");
  }
  check_own_sockets(draft, users);
}

void check_services(Draft& draft) {
  std::map<std::pair<unsigned, std::string>, std::string> services;
  for (const ForwardDraft& forward : draft.iforwards) {
    const auto [other, fresh] =
        services.emplace(std::pair(forward.spec.id, forward.spec.service), forward.spec.text);
    if (fresh) continue;
    draft.complain_of(forward.at, forward.spec.text,
                      "service " + forward.spec.service + " of channel " + forward.spec.channel +
                          " already goes to " + other->second,
                      "give it one -i per channel");
  }
}

// What an access list is for.
enum class Guard { kNothing, kClients, kPeers, kVsockPeers };

Guard guard_of(const OptionRow& row) {
  if (row.name == "allow-uid" || row.name == "allow-gid") return Guard::kClients;
  if (row.name == "channel-allow-uid" || row.name == "channel-allow-gid") return Guard::kPeers;
  return row.name == "channel-allow-cid" ? Guard::kVsockPeers : Guard::kNothing;
}

// Whether one of the channels, or one of their forwards, is what the list guards.
template <typename OfThese>
bool guards_any(const Draft& draft, Guard guard, const OfThese& of_these) {
  if (guard == Guard::kClients) {
    return std::any_of(draft.oforwards.begin(), draft.oforwards.end(), [&](const auto& forward) {
      return of_these(forward.spec.id) && forward.spec.address.kind == AddressKind::kUnix;
    });
  }
  const AddressKind kind = guard == Guard::kVsockPeers ? AddressKind::kVsock : AddressKind::kUnix;
  return std::any_of(draft.channels.begin(), draft.channels.end(), [&](const auto& channel) {
    return of_these(channel.options.id) && transport_listens(channel.options.transport) &&
           channel.options.address.kind == kind;
  });
}

// A list that guards nothing was meant for something.
// `forward` is the one that it was given for, if it was given for one.
void complain_of_list(Draft& draft, const OptionRow& row, const Origin& at,
                      const ForwardDraft* forward = nullptr) {
  const Guard guard = guard_of(row);
  if (at.in_file()) {
    const std::string key(row.file_key());
    const auto shares_table = [&](const ForwardDraft& other) {
      return other.spec.id == forward->spec.id && other.spec.service == forward->spec.service &&
             other.spec.address.kind == AddressKind::kUnix;
    };
    if (forward != nullptr &&
        std::any_of(draft.oforwards.begin(), draft.oforwards.end(), shares_table)) {
      draft.complain(
          at,
          key + " guards unix sockets alone, and " + forward->spec.address.to_string() + " is none",
          "give that address a table of its own, as [[channel.NAME.listen.SERVICE]]: "
          "TCP does not tell who connects");
    } else if (guard == Guard::kClients) {
      draft.complain(at, key + " guards unix sockets that are listened on, and there is none here",
                     "leave it out, or give unix:/PATH: TCP does not tell who connects");
    } else {
      const std::string what = guard == Guard::kPeers ? "unix-listen" : "vsock-listen";
      draft.complain(at, key + " guards " + what + " channels, and there is none here",
                     "leave it out");
    }
  } else if (guard == Guard::kClients) {
    draft.complain(
        {}, "--allow-uid and --allow-gid guard unix sockets given with -o, and there is none",
        "TCP does not tell who connects");
  } else if (guard == Guard::kPeers) {
    draft.complain({},
                   "--channel-allow-uid and --channel-allow-gid guard unix-listen channels, and "
                   "there is none");
  } else {
    draft.complain({}, "--channel-allow-cid guards vsock-listen channels, and there is none");
  }
}

void check_lists(Draft& draft) {
  const auto check_given = [&](const Given& given, const auto& of_these) {
    for (const auto& [row, at] : given) {
      const Guard guard = guard_of(*row);
      if (guard == Guard::kNothing || guards_any(draft, guard, of_these)) continue;
      complain_of_list(draft, *row, at);
    }
  };
  check_given(draft.given, [](unsigned) { return true; });
  for (const ChannelDraft& channel : draft.channels) {
    if (!channel.usable) continue;
    check_given(channel.given, [&](unsigned id) { return id == channel.options.id; });
  }
  for (const ForwardDraft& forward : draft.oforwards) {
    for (const auto& [row, at] : forward.given) {
      if (guard_of(*row) == Guard::kNothing || forward.spec.address.kind == AddressKind::kUnix)
        continue;
      complain_of_list(draft, *row, at, &forward);
    }
  }
}

// Names are looked up, and then judged, when they are bound.
bool far(const Address& address) {
  if (address.kind != AddressKind::kTcp || address.needs_resolver()) return false;
  const auto known = to_socket_address(address);
  return known && !known->is_loopback();
}

void check_remote(Draft& draft) {
  const auto complain = [&](const Origin& at, const std::string& option, const std::string& text,
                            const Address& address) {
    if (at.in_file()) {
      draft.complain(at, "listens where other machines can connect (" + address.to_string() + ")",
                     "write allow-remote = true if that is meant, or listen on 127.0.0.1 or [::1]");
    } else {
      draft.complain({}, option + " " + text + " " + remote_fault(address));
    }
  };
  for (const ChannelDraft& channel : draft.channels) {
    const ChannelSpec& spec = channel.options;
    if (channel.usable && transport_listens(spec.transport) && far(spec.address) &&
        !channel.options.settings.allow_remote) {
      complain(channel.at, "-c", spec.text, spec.address);
    }
  }
  for (const ForwardDraft& forward : draft.oforwards) {
    if (!forward.settings.allow_remote && far(forward.spec.address)) {
      complain(forward.at, "-o", forward.spec.text, forward.spec.address);
    }
  }
}

void check_peer_timeouts(Draft& draft) {
  const OptionRow* const row = &option_row("peer-timeout");
  for (const ChannelDraft& channel : draft.channels) {
    const auto given = channel.given.find(row);
    if (given == channel.given.end() || !channel.usable ||
        channel.options.address.kind == AddressKind::kTcp) {
      continue;
    }
    draft.complain(given->second, "peer-timeout is of TCP channels, and this is none",
                   "leave it out: other channels end when the other end does");
  }
}

// A table of listeners has them if one of its addresses is a unix socket.
void check_permissions(Draft& draft) {
  for (const std::string_view name : {"socket-mode", "socket-owner"}) {
    const OptionRow& row = option_row(name);
    std::map<std::pair<std::string, unsigned>, std::pair<Origin, bool>> useful;  // by file and line
    for (const ForwardDraft& forward : draft.oforwards) {
      const auto given = forward.given.find(&row);
      if (given == forward.given.end()) continue;
      const Origin& at = given->second;
      auto& entry = useful[{at.file, at.line}];
      entry.first = at;
      entry.second |= forward.spec.address.kind == AddressKind::kUnix;
    }
    for (const auto& [line, entry] : useful) {
      if (entry.second) continue;
      draft.complain(entry.first,
                     std::string(row.file_key()) + " is of unix sockets, and this is TCP",
                     "leave it out: every user of this machine can connect to a TCP listener");
    }
  }
}

// In a channel or for all of them it is for those that can.
void check_when_down(Draft& draft) {
  const OptionRow* const row = &option_row("when-down");
  for (const ForwardDraft& forward : draft.oforwards) {
    const auto given = forward.given.find(row);
    if (given == forward.given.end() || forward.spec.address.kind == AddressKind::kTcp ||
        forward.settings.when_down.kind != WhenDown::Kind::kClose) {
      continue;
    }
    draft.complain(
        given->second, "when-down = \"close\" is of TCP, and this is a unix socket",
        "write \"reset\" or \"hold TIME\": a path cannot stop listening and keep its place");
  }
}

// Divides the memory among the channels, and sees that it suffices.
void check_memory(Draft& draft) {
  const OptionRow& memory_row = option_row("memory");
  const OptionRow& window_row = option_row("window");
  uint64_t own = 0;
  uint64_t without = 0;
  for (const ChannelDraft& channel : draft.channels) {
    if (channel.options.settings.memory) {
      own += *channel.options.settings.memory;
    } else {
      ++without;
    }
  }
  const uint64_t total =
      draft.process.memory.value_or(own + (without > 0 || own == 0 ? kDefaultMemory : 0));
  draft.memory = total;
  const Origin& at = where(draft.given, memory_row);
  if (own > total || (without > 0 && total == own)) {
    return draft.complain(
        at, label_of(memory_row, at) + " " + format_size(total) + " is too little",
        "channels have " + format_size(own) + " of their own" +
            (without > 0 ? ", and " + std::to_string(without) + " need a part of the rest" : ""));
  }
  const uint64_t part = without > 0 ? (total - own) / without : 0;
  const Origin& window_at = where(draft.given, window_row);
  if (draft.defaults.window > total) {
    draft.complain(window_at,
                   label_of(window_row, window_at) + " " + format_size(draft.defaults.window) +
                       " is larger than " + (window_at.in_file() ? "the memory " : "--memory ") +
                       format_size(total),
                   "make the window smaller or the memory larger");
  }
  for (ChannelDraft& channel : draft.channels) {
    ChannelOptions& options = channel.options;
    give_memory(options, part);
    const Origin& own_window = where(channel.given, window_row);
    if (own_window.in_file() && options.settings.window > total) {
      draft.complain(own_window,
                     "window " + format_size(options.settings.window) +
                         " is larger than the memory " + format_size(total),
                     "make the window smaller or the memory larger");
    }
  }
}

// Log shipping.
void check_shipping(Draft& draft) {
  const ProcessSettings& process = draft.process;
  const auto at = [&](std::string_view name) -> const Origin& {
    return where(draft.given, option_row(name));
  };
  const auto label = [&](std::string_view name) { return label_of(option_row(name), at(name)); };
  if (process.ship_sources.empty()) {
    for (const std::string_view name :
         {"ship-memory", "ship-spool", "ship-flush-timeout", "ship-channel"}) {
      if (draft.given.count(&option_row(name)) == 0) continue;
      draft.complain(at(name), label(name) + " is of log shipping, and there is no source",
                     "name one with --ship, or as source of [ship]");
    }
    return;
  }
  if (process.ship_sources.size() > logs::kMaxSources) {
    draft.complain(at("ship"), "too many sources: " + std::to_string(process.ship_sources.size()),
                   "the limit is " + std::to_string(logs::kMaxSources));
  }
  std::map<std::string, std::string> names;
  std::map<std::string, std::string> places;
  for (const logs::SourceSpec& source : process.ship_sources) {
    const std::string shown = label("ship") + " " + printable(source.text);
    if (source.spools && !process.ship_spool) {
      draft.complain(at("ship"), shown + ": full=spool needs a spool",
                     "give --ship-spool PATH:SIZE");
    }
    if (!names.emplace(source.config.name, source.text).second) {
      draft.complain(at("ship"), shown + ": another source is called " + source.config.name,
                     "give it a name of its own, name=NAME");
    }
    const bool has_address = !source.address.host.empty();
    const std::string place =
        has_address ? (shares_no_name(source) ? "datagrams " : "") + exclusive_key(source.address)
                    : std::to_string(static_cast<int>(source.kind));
    const auto [other, fresh] = places.emplace(place, source.text);
    if (!fresh && has_address) {
      draft.complain(at("ship"), shown + " has the address of " + printable(other->second),
                     "give each its own");
    } else if (!fresh) {
      draft.complain(at("ship"), shown + " is given twice", "leave one of them out");
    }
    if (!source.remote && far(source.address)) {
      draft.complain(at("ship"), shown + " listens where other machines can send",
                     "write remote=on if that is meant, or listen on 127.0.0.1 or [::1]");
    }
  }
  if (!process.ship_channel.empty() && draft.places.count(process.ship_channel) == 0) {
    draft.complain(
        at("ship-channel"),
        label("ship-channel") + " " + process.ship_channel + ": there is no such channel",
        "name one that is given");
  }
}

// Collecting of logs.
void check_collecting(Draft& draft) {
  const ProcessSettings& process = draft.process;
  const auto at = [&](std::string_view name) -> const Origin& {
    return where(draft.given, option_row(name));
  };
  const auto label = [&](std::string_view name) { return label_of(option_row(name), at(name)); };
  if (process.collect.empty()) {
    for (const std::string_view name : {"collect-spool", "collect-ack"}) {
      if (draft.given.count(&option_row(name)) == 0) continue;
      draft.complain(at(name), label(name) + " is of collecting logs, and there is no sink",
                     "name one with --collect, or as sink of [collect]");
    }
    return;
  }
  if (process.collect_ack == CollectAck::kSpool && !process.collect_spool) {
    draft.complain(at("collect-ack"), label("collect-ack") + " spool: there is no spool",
                   "give --collect-spool PATH:SIZE");
  }
  if (process.collect_ack == CollectAck::kSink && process.collect_spool) {
    draft.complain(at("collect-ack"),
                   label("collect-ack") +
                       " sink: the guests keep lines for the sinks, and the "
                       "spool would hold none",
                   "leave out the spool, or acknowledge from it");
  }
}

}  // namespace

const ChannelOptions* shipping_channel(const Options& options) {
  if (options.process.ship_sources.empty()) return nullptr;
  const std::string& wanted = options.process.ship_channel;
  const auto found = std::find_if(
      options.channels.begin(), options.channels.end(), [&](const ChannelOptions& channel) {
        return wanted.empty() || wanted == channel.name || wanted == std::to_string(channel.id);
      });
  return found == options.channels.end() ? nullptr : &*found;
}

void give_memory(ChannelOptions& channel, uint64_t part) {
  channel.memory = channel.settings.memory.value_or(part);
  const uint64_t fitting = most_streams(receive_share(channel.memory));
  channel.max_streams = channel.settings.max_streams.value_or(
      static_cast<uint32_t>(std::min<uint64_t>(fitting, kDefaultStreams)));
}

void check(Draft& draft) {
  check_shipping(draft);
  check_collecting(draft);
  check_services(draft);
  check_exclusive(draft);
  check_lists(draft);
  check_remote(draft);
  check_peer_timeouts(draft);
  check_permissions(draft);
  check_when_down(draft);
  check_memory(draft);
}

}  // namespace virtproxy
