#include "uring/specs.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

namespace virtproxy {
namespace {

struct MethodEntry {
  std::string_view name;
  Method method;
  Endpoint::Kind kind;
  std::string_view form;
};

// The first name of a method is the one that messages use.
constexpr MethodEntry kMethods[] = {
    {"unix-connect", Method::kUnixConnect, Endpoint::Kind::kUnix, "PATH:-"},
    {"unix-listen", Method::kUnixListen, Endpoint::Kind::kUnix, "PATH:-"},
    {"tcp-connect", Method::kTcpConnect, Endpoint::Kind::kTcp, "HOST:PORT"},
    {"tcp-listen", Method::kTcpListen, Endpoint::Kind::kTcp, "HOST:PORT"},
    {"virtio-serial", Method::kVirtioSerial, Endpoint::Kind::kDevice, "DEVICE:-"},
    {"virtserial-open", Method::kVirtioSerial, Endpoint::Kind::kDevice, "DEVICE:-"},
    {"isa-serial", Method::kIsaSerial, Endpoint::Kind::kDevice, "DEVICE:BAUD"},
    {"vsock-connect", Method::kVsockConnect, Endpoint::Kind::kVsock, "CID:PORT"},
    {"vsock-listen", Method::kVsockListen, Endpoint::Kind::kVsock, "CID:PORT"},
};

}  // namespace

std::string method_list() {
  std::string list;
  for (const MethodEntry& entry : kMethods) {
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

struct ParsedChannel {
  ChannelSpec spec;
  bool has_id = false;
};

tl::expected<ParsedChannel, std::string> parse_channel(const std::string& arg) {
  const size_t colon = arg.find(':');
  if (colon == std::string::npos) {
    return bad_arg(arg, "write -c METHOD:ADDRESS:PORT[:ID] with a method out of " + method_list());
  }
  const std::string_view name = std::string_view(arg).substr(0, colon);
  const auto* const entry = std::find_if(std::begin(kMethods), std::end(kMethods),
                                         [&](const MethodEntry& e) { return e.name == name; });
  if (entry == std::end(kMethods)) {
    return failure("invalid channel type: " + printable(name) + ": use one of " + method_list());
  }
  const EndpointUse use = method_listens(entry->method) ? EndpointUse::kListen : EndpointUse::kDial;
  auto parsed = parse_endpoint(std::string_view(arg).substr(colon + 1), use, entry->kind);
  if (!parsed) {
    return bad_arg(arg, parsed.error() + " (the form is " + std::string(name) + ":" +
                            std::string(entry->form) + "[:ID])");
  }
  if (entry->method == Method::kVirtioSerial && parsed->endpoint.port != 0) {
    return bad_arg(arg, "a virtio-serial port has no speed: write - as its port");
  }
  ParsedChannel channel;
  channel.spec.method = entry->method;
  channel.spec.endpoint = std::move(parsed->endpoint);
  channel.spec.text = printable(arg);
  channel.has_id = parsed->id.has_value();
  channel.spec.id = parsed->id.value_or(0);
  return channel;
}

std::optional<std::string> service_fault(std::string_view service) {
  if (service.empty()) return "the service name is empty";
  if (service.size() > limits::kMaxServiceName) {
    return "the service name has " + std::to_string(service.size()) + " characters, the limit is " +
           std::to_string(limits::kMaxServiceName);
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
  if (const auto fault = service_fault(forward.service)) return bad_arg(arg, *fault + form);
  const EndpointUse use = option == 'o' ? EndpointUse::kListen : EndpointUse::kDial;
  auto parsed = parse_endpoint(std::string_view(arg).substr(colon + 1), use);
  if (!parsed) return bad_arg(arg, parsed.error() + form);
  forward.endpoint = std::move(parsed->endpoint);
  forward.id = parsed->id.value_or(0);
  forward.text = printable(arg);
  return forward;
}

}  // namespace

tl::expected<std::vector<ChannelSpec>, std::string> parse_channels(
    const std::vector<std::string>& args) {
  if (args.size() > limits::kMaxChannels) {
    return failure("too many channels: " + std::to_string(args.size()) + " given, the limit is " +
                   std::to_string(limits::kMaxChannels));
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
  if (args.size() > limits::kMaxForwards) {
    return failure(std::string("too many -") + option + " options: " + std::to_string(args.size()) +
                   " given, the limit is " + std::to_string(limits::kMaxForwards));
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

// The same text for two endpoints that cannot both be listened on or opened; empty for those that
// can.
std::string exclusive_key(const Endpoint& endpoint) {
  if (endpoint.kind == Endpoint::Kind::kDevice) return endpoint.host;
  if (endpoint.kind == Endpoint::Kind::kTcp) {
    if (endpoint.port == 0) return {};
    if (const auto address = parse_ip(endpoint.host, static_cast<uint16_t>(endpoint.port))) {
      return address->to_string();
    }
  }
  std::string key = endpoint.to_string();
  if (endpoint.needs_resolver()) {
    std::transform(key.begin(), key.end(), key.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  }
  return key;
}

}  // namespace

std::optional<std::string> check_exclusive(const Options& options) {
  std::map<std::string, std::string> users;
  const auto add = [&](const Endpoint& endpoint,
                       const std::string& text) -> std::optional<std::string> {
    const std::string key = exclusive_key(endpoint);
    if (key.empty()) return std::nullopt;
    const auto [other, fresh] = users.emplace(key, text);
    if (fresh) return std::nullopt;
    return bad_arg(text, endpoint.to_string() + " is already used by " + other->second +
                             ": give each its own address")
        .value();
  };
  for (const ChannelSpec& channel : options.channels) {
    if (!method_listens(channel.method) && !method_is_device(channel.method)) continue;
    if (auto fault = add(channel.endpoint, channel.text)) return fault;
  }
  for (const ForwardSpec& forward : options.oforwards) {
    if (auto fault = add(forward.endpoint, forward.text)) return fault;
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

std::string_view method_name(Method method) {
  for (const MethodEntry& entry : kMethods) {
    if (entry.method == method) return entry.name;
  }
  return {};
}

}  // namespace virtproxy
