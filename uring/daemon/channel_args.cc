#include "uring/daemon/channel_args.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace virtproxy {

std::string transport_list() {
  std::string list;
  for (const TransportEntry& entry : kTransports) {
    if (!list.empty()) list += ", ";
    list += entry.name;
  }
  return list;
}

namespace {

using Failure = tl::unexpected<std::string>;

Failure failure(std::string text) { return Failure(std::move(text)); }

Failure bad_arg(std::string_view arg, std::string_view reason) {
  return failure("error parsing arg: " + printable(arg) + ": " + std::string(reason));
}

// The kernel would choose a port that no client knows.
std::optional<std::string> any_port_fault(const Address& address, AddressUse use) {
  if (use != AddressUse::kListen || address.kind != Address::Kind::kTcp || address.port != 0) {
    return std::nullopt;
  }
  return "port 0 is any free port, which no client can know: use a number from 1 to 65535";
}

struct ParsedChannel {
  ChannelSpec spec;
  bool has_id = false;
};

tl::expected<ParsedChannel, std::string> parse_channel(const std::string& arg) {
  const size_t colon = arg.find(':');
  if (colon == std::string::npos) {
    return bad_arg(arg,
                   "write -c METHOD:ADDRESS:PORT[:ID] with a method out of " + transport_list());
  }
  const std::string_view name = std::string_view(arg).substr(0, colon);
  const auto* const entry = std::find_if(std::begin(kTransports), std::end(kTransports),
                                         [&](const TransportEntry& e) { return e.name == name; });
  if (entry == std::end(kTransports)) {
    return failure("invalid channel type: " + printable(name) + ": use one of " + transport_list());
  }
  const AddressUse use =
      transport_listens(entry->transport) ? AddressUse::kListen : AddressUse::kConnect;
  auto parsed = parse_address(std::string_view(arg).substr(colon + 1), use, entry->kind);
  if (!parsed) {
    return bad_arg(arg, parsed.error() + " (the form is " + std::string(name) + ":" +
                            std::string(entry->form) + "[:ID])");
  }
  if (entry->transport == TransportKind::kVirtioSerial && parsed->address.port != 0) {
    return bad_arg(arg, "a virtio-serial port has no speed: write - as its port");
  }
  if (const auto fault = any_port_fault(parsed->address, use)) return bad_arg(arg, *fault);
  ParsedChannel channel;
  channel.spec.transport = entry->transport;
  channel.spec.address = std::move(parsed->address);
  channel.spec.text = printable(arg);
  channel.has_id = parsed->id.has_value();
  channel.spec.id = parsed->id.value_or(0);
  return channel;
}

std::optional<std::string> service_fault(std::string_view service) {
  if (service.empty()) return "the service name is empty";
  if (service.size() > option_ranges::kMaxServiceName) {
    return "the service name has " + std::to_string(service.size()) + " characters, the limit is " +
           std::to_string(option_ranges::kMaxServiceName);
  }
  if (printable(service) != service || service.front() == ' ' || service.back() == ' ') {
    return "a service name is made of printable ASCII characters, no space at either end";
  }
  return std::nullopt;
}

tl::expected<ForwardSpec, std::string> parse_forward(const std::string& arg, char option) {
  const std::string form = std::string(" (the form is -") + option +
                           " SERVICE:HOST:PORT[:ID] or -" + option + " SERVICE:PATH:-[:ID])";
  const size_t colon = arg.find(':');
  if (colon == std::string::npos) return bad_arg(arg, "no address after the service" + form);
  ForwardSpec forward;
  forward.service = arg.substr(0, colon);
  const AddressUse use = option == 'o' ? AddressUse::kListen : AddressUse::kConnect;
  const auto fault = service_fault(forward.service);
  auto parsed = parse_address(std::string_view(arg).substr(colon + 1), use);
  if ((fault || !parsed) && !arg.starts_with(':') && parse_address(arg, use)) {
    return bad_arg(arg, std::string("no service name before the address: write -") + option +
                            " SERVICE:" + printable(arg));
  }
  if (fault) return bad_arg(arg, *fault + form);
  if (!parsed) return bad_arg(arg, parsed.error() + form);
  if (const auto wrong = any_port_fault(parsed->address, use)) return bad_arg(arg, *wrong);
  forward.address = std::move(parsed->address);
  forward.id = parsed->id.value_or(0);
  forward.text = printable(arg);
  return forward;
}

}  // namespace

tl::expected<std::vector<ChannelSpec>, std::string> parse_channels(
    const std::vector<std::string>& args) {
  if (args.size() > option_ranges::kMaxChannels) {
    return failure("too many channels: " + std::to_string(args.size()) + " given, the limit is " +
                   std::to_string(option_ranges::kMaxChannels));
  }
  std::vector<ParsedChannel> parsed;
  std::map<unsigned, std::string> taken;
  for (const std::string& arg : args) {
    auto channel = parse_channel(arg);
    if (!channel) return failure(channel.error());
    if (channel->has_id) {
      const auto [other, fresh] = taken.emplace(channel->spec.id, channel->spec.text);
      if (!fresh) {
        return bad_arg(arg, "channel number " + std::to_string(channel->spec.id) +
                                " is already that of " + other->second +
                                ": give every channel its own");
      }
    }
    parsed.push_back(*std::move(channel));
  }
  std::vector<ChannelSpec> channels;
  unsigned next = 0;
  for (ParsedChannel& channel : parsed) {
    if (!channel.has_id) {
      while (taken.count(next) != 0) ++next;
      channel.spec.id = next++;
    }
    channels.push_back(std::move(channel.spec));
  }
  return channels;
}

tl::expected<std::vector<ForwardSpec>, std::string> parse_forwards(
    const std::vector<std::string>& args, char option) {
  if (args.size() > option_ranges::kMaxForwards) {
    return failure(std::string("too many -") + option + " options: " + std::to_string(args.size()) +
                   " given, the limit is " + std::to_string(option_ranges::kMaxForwards));
  }
  std::vector<ForwardSpec> forwards;
  std::map<std::pair<unsigned, std::string>, std::string> services;
  for (const std::string& arg : args) {
    auto forward = parse_forward(arg, option);
    if (!forward) return failure(forward.error());
    if (option == 'i') {
      const auto [other, fresh] =
          services.emplace(std::pair(forward->id, forward->service), forward->text);
      if (!fresh) {
        return bad_arg(arg, "service " + forward->service + " of channel " +
                                std::to_string(forward->id) + " already goes to " + other->second +
                                ": give it one -i per channel");
      }
    }
    forwards.push_back(*std::move(forward));
  }
  return forwards;
}

namespace {

// The same text for two addresses that cannot both be listened on, opened or connected to.
std::string exclusive_key(const Address& address) {
  if (address.kind == Address::Kind::kDevice ||
      (address.kind == Address::Kind::kUnix && !address.host.starts_with('@'))) {
    return std::filesystem::path(address.host).lexically_normal().string();
  }
  if (address.kind == Address::Kind::kTcp) {
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

}  // namespace

std::optional<std::string> check_exclusive(const Options& options) {
  std::map<std::string, std::string> users;
  std::map<std::string, std::string> connecting;
  for (const ChannelSpec& channel : options.channels) {
    const bool connects =
        !transport_listens(channel.transport) && !transport_is_device(channel.transport);
    const auto [other, fresh] =
        (connects ? connecting : users).emplace(exclusive_key(channel.address), channel.text);
    if (fresh) continue;
    return bad_arg(channel.text,
                   channel.address.to_string() + " is already used by " + other->second +
                       (connects ? ": one peer takes one channel, so give each its own address"
                                 : ": give each its own address"))
        .value();
  }
  for (const ForwardSpec& forward : options.oforwards) {
    const auto [other, fresh] = users.emplace(exclusive_key(forward.address), forward.text);
    if (fresh) continue;
    return bad_arg(forward.text, forward.address.to_string() + " is already used by " +
                                     other->second + ": give each its own address")
        .value();
  }
  return std::nullopt;
}

std::optional<std::string> check_channel_ids(const Options& options) {
  std::set<unsigned> ids;
  for (const ChannelSpec& channel : options.channels) ids.insert(channel.id);
  for (const auto* forwards : {&options.oforwards, &options.iforwards}) {
    for (const ForwardSpec& forward : *forwards) {
      if (ids.count(forward.id) != 0) continue;
      std::string known;
      for (const unsigned id : ids) known += (known.empty() ? "" : ", ") + std::to_string(id);
      return "unable to find channel with index: " + std::to_string(forward.id) +
             " (asked for by " + forward.text + "): the channels given have index " + known;
    }
  }
  return std::nullopt;
}

std::optional<std::string> apply_priority(const std::string& arg,
                                          std::vector<ForwardSpec>& forwards) {
  const size_t equals = arg.rfind('=');
  const std::string shown = "--priority " + printable(arg) + ": ";
  if (equals == std::string::npos) {
    return shown + "write SERVICE=interactive, SERVICE=normal or SERVICE=bulk";
  }
  const std::string service = arg.substr(0, equals);
  const std::string name = arg.substr(equals + 1);
  Priority priority{};
  if (name == "interactive") {
    priority = Priority::kInteractive;
  } else if (name == "normal") {
    priority = Priority::kNormal;
  } else if (name == "bulk") {
    priority = Priority::kBulk;
  } else {
    return shown + "a priority is interactive, normal or bulk";
  }
  bool found = false;
  for (ForwardSpec& forward : forwards) {
    if (forward.service != service) continue;
    forward.priority = priority;
    found = true;
  }
  if (found) return std::nullopt;
  return shown + "there is no -o forward of service '" + printable(service) +
         "': name one that is given with -o";
}

std::optional<std::string> apply_peer_timeouts(const std::vector<std::string>& args,
                                               std::vector<ChannelSpec>& channels) {
  using option_ranges::kMaxPeerTimeout;
  using option_ranges::kMinPeerTimeout;
  const auto is_tcp = [](const ChannelSpec& channel) {
    return channel.address.kind == Address::Kind::kTcp;
  };
  std::map<unsigned, double> of_channel;
  for (const std::string& arg : args) {
    const std::string shown = "--peer-timeout " + printable(arg) + ": ";
    const size_t colon = arg.find(':');
    const auto seconds = parse_seconds(std::string_view(arg).substr(0, colon));
    if (!seconds) return shown + seconds.error() + ": write SECONDS or SECONDS:ID";
    if (*seconds != 0 && (*seconds < kMinPeerTimeout || *seconds > kMaxPeerTimeout)) {
      return shown + "use " + format_seconds(kMinPeerTimeout) + " to " +
             format_seconds(kMaxPeerTimeout) + " seconds, or 0 for never";
    }
    if (colon == std::string::npos) {
      if (std::none_of(channels.begin(), channels.end(), is_tcp)) {
        return shown +
               "no channel is a TCP one: other channels end when the other end does, and "
               "need no time-out";
      }
      for (ChannelSpec& channel : channels) channel.peer_timeout = *seconds;
      continue;
    }
    const std::string id = arg.substr(colon + 1);
    const auto named =
        std::find_if(channels.begin(), channels.end(),
                     [&](const ChannelSpec& channel) { return std::to_string(channel.id) == id; });
    if (named == channels.end()) {
      return shown + "there is no channel '" + printable(id) + "': name one by its number";
    }
    if (!is_tcp(*named)) return shown + "channel " + id + " is no TCP channel: " + named->text;
    of_channel[named->id] = *seconds;
  }
  for (ChannelSpec& channel : channels) {
    if (const auto own = of_channel.find(channel.id); own != of_channel.end()) {
      channel.peer_timeout = own->second;
    }
  }
  return std::nullopt;
}

}  // namespace virtproxy
