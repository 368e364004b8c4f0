// The arguments of -c, -o and -i, and what stands for them in a file.

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "uring/base/text.h"
#include "uring/daemon/options_draft.h"
#include "uring/mux/service_registry.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

std::string transport_list() {
  std::string list;
  for (const TransportKind& kind : transport_kinds()) {
    for (const std::string_view name : {kind.name, kind.alias}) {
      if (name.empty()) continue;
      if (!list.empty()) list += ", ";
      list += name;
    }
  }
  return list;
}

AddressUse use_of(const TransportKind& kind) {
  return transport_listens(&kind) ? AddressUse::kListen : AddressUse::kConnect;
}

// The kernel would choose a port that no client knows.
std::optional<std::string> any_port_fault(const Address& address, AddressUse use) {
  if (use != AddressUse::kListen || address.kind != Address::Kind::kTcp || address.port != 0) {
    return std::nullopt;
  }
  return "port 0 is any free port, which no client can know: use a number from 1 to 65535";
}

// `name` is the one of the kind's names that was written.
std::string form_of(const std::string& name, const TransportKind& kind) {
  return "the form is " + name + ":" + std::string(kind.form);
}

std::string form_of_forward(char option) {
  return std::string("the form is -") + option + " SERVICE:HOST:PORT[:CHANNEL] or -" + option +
         " SERVICE:PATH:-[:CHANNEL]";
}

std::optional<std::string> transport_fault(const TransportKind& kind, const Address& address) {
  if (kind.fault != nullptr) {
    if (auto fault = kind.fault(address)) return fault;
  }
  return any_port_fault(address, use_of(kind));
}

// A path needs no port in a file: it is written as on the command line, or alone.
std::string with_port(std::string text, Address::Kind kind) {
  if (kind != Address::Kind::kUnix && kind != Address::Kind::kDevice) return text;
  const size_t colon = text.rfind(':');
  const std::string_view tail =
      colon == std::string::npos ? std::string_view() : std::string_view(text).substr(colon + 1);
  const bool speed = kind == Address::Kind::kDevice && !tail.empty() &&
                     tail.find_first_not_of("0123456789") == std::string_view::npos;
  const bool has_port = tail == "-" || speed || text.find(":-:") != std::string::npos;
  return has_port ? text : text + ":-";
}

// unix:/path is a path, as with other programs.
std::string without_prefix(const std::string& text) {
  const std::string_view rest = std::string_view(text).substr(std::min<size_t>(5, text.size()));
  const bool prefixed = text.starts_with("unix:") && !rest.empty() &&
                        std::string_view("/@.").find(rest.front()) != std::string_view::npos;
  return prefixed ? std::string(rest) : text;
}

std::string plain_address(const std::string& text) {
  const std::string path = without_prefix(text);
  return path != text || text.starts_with('/') || text.starts_with('@')
             ? with_port(path, Address::Kind::kUnix)
             : path;
}

}  // namespace

std::optional<std::string> service_fault(std::string_view service) {
  if (service.empty()) return "the service name is empty";
  if (service.size() > option_ranges::kMaxServiceName) {
    return "the service name has " + std::to_string(service.size()) + " characters, the limit is " +
           std::to_string(option_ranges::kMaxServiceName);
  }
  if (printable(service) != service || service.front() == ' ' || service.back() == ' ') {
    return "a service name is made of printable ASCII characters, no space at either end";
  }
  if (service.starts_with(kReservedServicePrefix)) {
    return "service names that begin with " + std::string(kReservedServicePrefix) +
           " belong to built-in services: choose another name";
  }
  return std::nullopt;
}

void read_channel(const std::string& arg, Draft& draft) {
  const std::string shown = printable(arg);
  const size_t colon = arg.find(':');
  if (colon == std::string::npos) {
    return draft.complain_of(
        {}, shown, "write -c METHOD:ADDRESS:PORT[:NAME] with a method out of " + transport_list());
  }
  const std::string name = arg.substr(0, colon);
  const TransportKind* const kind = find_transport(name);
  if (kind == nullptr) {
    return draft.complain({}, "invalid channel type: " + printable(name),
                          "use one of " + transport_list());
  }
  auto parsed =
      parse_address(std::string_view(arg).substr(colon + 1), use_of(*kind), kind->address);
  if (!parsed) {
    return draft.complain_of({}, shown, parsed.error() + " (" + form_of(name, *kind) + "[:NAME])");
  }
  if (const auto fault = transport_fault(*kind, parsed->address)) {
    return draft.complain_of({}, shown, *fault);
  }
  ChannelDraft& channel = draft.channels.emplace_back();
  channel.options.settings = draft.defaults;
  channel.options.transport = kind;
  channel.options.address = std::move(parsed->address);
  channel.options.text = shown;
  channel.has_name = parsed->channel.has_value();
  channel.options.name = parsed->channel.value_or("");
}

void read_forward(const std::string& arg, char option, Draft& draft) {
  const std::string shown = printable(arg);
  const std::string form = " (" + form_of_forward(option) + ")";
  const size_t colon = arg.find(':');
  if (colon == std::string::npos) {
    return draft.complain_of({}, shown, "no address after the service" + form);
  }
  ForwardDraft forward;
  forward.spec.service = arg.substr(0, colon);
  const AddressUse use = option == 'o' ? AddressUse::kListen : AddressUse::kConnect;
  const auto fault = service_fault(forward.spec.service);
  auto parsed = parse_address(without_prefix(arg.substr(colon + 1)), use);
  if ((fault || !parsed) && !arg.starts_with(':') && parse_address(arg, use)) {
    return draft.complain_of(
        {}, shown,
        std::string("no service name before the address: write -") + option + " SERVICE:" + shown);
  }
  if (fault) return draft.complain_of({}, shown, *fault + form);
  if (!parsed) return draft.complain_of({}, shown, parsed.error() + form);
  if (const auto wrong = any_port_fault(parsed->address, use)) {
    return draft.complain_of({}, shown, *wrong);
  }
  forward.spec.address = std::move(parsed->address);
  forward.spec.text = shown;
  if (parsed->channel) forward.channel = *std::move(parsed->channel);
  (option == 'o' ? draft.oforwards : draft.iforwards).push_back(std::move(forward));
}

bool read_transport(const ConfigNode& value, ChannelDraft& channel, Draft& draft) {
  const std::string what = "transport " + in_quotes(value.text);
  const size_t colon = value.text.find(':');
  const std::string name = value.text.substr(0, colon);
  const TransportKind* const kind = find_transport(name);
  if (colon == std::string::npos || kind == nullptr) {
    draft.complain(value.at, what + " begins with no known method",
                   "write METHOD:ADDRESS with a method out of " + transport_list());
    return false;
  }
  const std::string text = with_port(value.text.substr(colon + 1), kind->address);
  auto parsed = parse_address(text, use_of(*kind), kind->address);
  std::optional<std::string> fault;
  if (!parsed) {
    fault = parsed.error();
  } else if (parsed->channel) {
    fault = "the name of a channel is that of its table, not " + in_quotes(*parsed->channel);
  } else {
    fault = transport_fault(*kind, parsed->address);
  }
  if (fault) {
    draft.complain(value.at, what + ": " + *fault, form_of(name, *kind));
    return false;
  }
  channel.options.transport = kind;
  channel.options.address = std::move(parsed->address);
  channel.options.text = printable(name + ":" + text);
  return true;
}

bool read_address(const ConfigNode& value, const std::string& text, AddressUse use,
                  ForwardDraft& forward, Draft& draft) {
  const std::string key = use == AddressUse::kListen ? "at" : "to";
  const std::string address = plain_address(text);
  auto parsed = parse_address(address, use);
  std::optional<std::string> fault;
  if (!parsed && address.starts_with("unix:")) {
    fault = "a path begins with / behind unix:";
  } else if (!parsed) {
    fault = parsed.error();
  } else if (parsed->channel) {
    fault = "the channel is that of the table, not " + in_quotes(*parsed->channel);
  } else {
    fault = any_port_fault(parsed->address, use);
  }
  if (fault) {
    draft.complain(value.at, key + " " + in_quotes(text) + ": " + *fault,
                   "the form is HOST:PORT or unix:/PATH");
    return false;
  }
  forward.spec.address = std::move(parsed->address);
  forward.spec.text = printable(forward.spec.service + ":" + address + ":" + forward.channel);
  return true;
}

}  // namespace virtproxy
