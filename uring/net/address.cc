#include "uring/net/address.h"

#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <utility>
#include <vector>

#include "uring/base/units.h"
#include "uring/net/baud.h"

namespace virtproxy {
namespace {

tl::unexpected<std::string> failure(std::string text) {
  return tl::unexpected<std::string>(std::move(text));
}

static_assert(kMaxUnixPath == sizeof(sockaddr_un{}.sun_path) - 1);

constexpr size_t kMaxHostName = 253;
constexpr size_t kMaxLabel = 63;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_number(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_digit);
}

std::optional<uint16_t> find_service(std::string_view name) {
  std::ifstream file("/etc/services");
  std::string line;
  while (std::getline(file, line)) {
    line.resize(std::min(line.size(), line.find('#')));
    std::vector<std::string_view> words;
    const std::string_view view = line;
    for (size_t at = view.find_first_not_of(" \t"); at != std::string_view::npos;) {
      const size_t end = std::min(view.find_first_of(" \t", at), view.size());
      words.push_back(view.substr(at, end - at));
      at = view.find_first_not_of(" \t", end);
    }
    if (words.size() < 2) continue;
    const std::string_view port = words[1];
    const size_t slash = port.find('/');
    if (slash == std::string_view::npos || port.substr(slash) != "/tcp") continue;
    words.erase(words.begin() + 1);
    if (std::find(words.begin(), words.end(), name) == words.end()) continue;
    return parse_number<uint16_t>(port.substr(0, slash));
  }
  return std::nullopt;
}

struct Fields {
  std::string_view address;
  std::string_view port;
  std::optional<std::string_view> channel;
  bool bracketed = false;
};

tl::expected<Fields, std::string> split_fields(std::string_view text) {
  Fields fields;
  if (text.starts_with('[')) {
    const size_t close = text.find(']');
    if (close == std::string_view::npos) {
      return failure("']' is missing: write an IPv6 address as [::1]:PORT");
    }
    fields.bracketed = true;
    fields.address = text.substr(1, close - 1);
    std::string_view rest = text.substr(close + 1);
    if (!rest.starts_with(':')) {
      return failure("no port after ']': write an IPv6 address as [::1]:PORT");
    }
    rest.remove_prefix(1);
    const size_t colon = rest.find(':');
    fields.port = rest.substr(0, colon);
    if (colon != std::string_view::npos) fields.channel = rest.substr(colon + 1);
    return fields;
  }

  const size_t last = text.rfind(':');
  if (last == std::string_view::npos) {
    return failure("no port: write ADDRESS:PORT, with - as the port of a path");
  }
  const size_t before = last == 0 ? std::string_view::npos : text.substr(0, last).rfind(':');
  const std::string_view tail = text.substr(last + 1);
  const bool path = text.starts_with('/') || text.starts_with('.') || text.starts_with('@');
  bool has_channel = false;
  if (before != std::string_view::npos) {
    // A path may contain colons: only what cannot be part of it is taken for port and channel.
    const std::string_view middle = text.substr(before + 1, last - before - 1);
    has_channel = !path || (tail != "-" && (middle == "-" || is_number(middle)));
  }
  if (has_channel) {
    fields.address = text.substr(0, before);
    fields.port = text.substr(before + 1, last - before - 1);
    fields.channel = tail;
  } else {
    fields.address = text.substr(0, last);
    fields.port = tail;
  }
  if (!path && fields.port != "-" && fields.address.find(':') != std::string_view::npos) {
    return failure(
        "too many colons: write ADDRESS:PORT or ADDRESS:PORT:CHANNEL, and an IPv6 address in "
        "brackets, [::1]:PORT");
  }
  return fields;
}

tl::expected<Address, std::string> to_unix_address(const Fields& fields) {
  if (fields.bracketed) return failure("brackets are for IPv6 addresses, not for a path");
  if (fields.port != "-") {
    return failure("port " + in_quotes(fields.port) +
                   " with a path: write - as the port of a path");
  }
  if (fields.address.empty()) return failure("the path is empty: write /path/of/socket:-");
  const bool abstract = fields.address.starts_with('@');
  if (abstract && fields.address.size() == 1) {
    return failure("the abstract name is empty: write @name:-");
  }
  const size_t length = fields.address.size() - (abstract ? 1 : 0);
  if (length > kMaxUnixPath) {
    return failure("the path of a unix socket is " + std::to_string(length) +
                   " bytes long, the limit is " + std::to_string(kMaxUnixPath));
  }
  return Address{Address::Kind::kUnix, std::string(fields.address), 0};
}

tl::expected<Address, std::string> to_tcp_address(const Fields& fields, AddressUse use) {
  if (fields.port == "-") {
    return failure("port - means a path: write HOST:PORT for tcp, or use a unix method");
  }
  if (fields.address.starts_with('/') || fields.address.starts_with('@')) {
    return failure("port " + in_quotes(fields.port) +
                   " with a path: write - as the port of a unix socket");
  }
  const auto port = parse_port(fields.port);
  if (!port && fields.address == "unix") return failure("a path begins with / behind unix:");
  if (!port) return failure(port.error());
  if (*port == 0 && use == AddressUse::kConnect) {
    return failure("port 0 cannot be connected to: use a number from 1 to 65535");
  }
  Address address{Address::Kind::kTcp, std::string(fields.address), *port};
  if (fields.bracketed) {
    const auto literal = parse_ip(address.host, 0);
    if (!literal || literal->family() != AF_INET6) {
      return failure(in_quotes(fields.address) + " in brackets is not an IPv6 address like [::1]");
    }
    return address;
  }
  if (address.host.empty() || address.host == "*") {
    if (use == AddressUse::kConnect) {
      return failure("no address to connect to: write HOST:PORT, for example 127.0.0.1:" +
                     std::to_string(*port));
    }
    address.host = "*";
    return address;
  }
  if (!parse_ip(address.host, 0) && !is_host_name(address.host)) {
    return failure("address " + in_quotes(address.host) +
                   " is neither an IP address nor a host name");
  }
  return address;
}

tl::expected<Address, std::string> to_vsock_address(const Fields& fields, AddressUse use) {
  if (fields.bracketed) return failure("brackets are for IPv6 addresses: write CID:PORT");
  const auto port = parse_number<uint32_t>(fields.port);
  if (!port || *port == VMADDR_PORT_ANY) {
    return failure("vsock port " + in_quotes(fields.port) +
                   " is not a number from 0 to 4294967294");
  }
  const std::string_view name = fields.address;
  std::optional<uint32_t> cid;
  if (name.empty() || name == "*" || name == "any" || name == "-1") {
    cid = VMADDR_CID_ANY;
  } else if (name == "host") {
    cid = VMADDR_CID_HOST;
  } else if (name == "local") {
    cid = 1;
  } else {
    cid = parse_number<uint32_t>(name);
  }
  if (!cid) {
    return failure("vsock CID " + in_quotes(name) +
                   " is not a number from 0 to 4294967295, nor any, host or local");
  }
  if (*cid == VMADDR_CID_ANY && use == AddressUse::kConnect) {
    return failure("no CID to connect to: write a number, host (2) or local (1)");
  }
  return Address{Address::Kind::kVsock, std::to_string(*cid), *port};
}

tl::expected<Address, std::string> to_device_address(const Fields& fields) {
  if (fields.bracketed) return failure("brackets are for IPv6 addresses, not for a device");
  if (!fields.address.starts_with('/')) {
    return failure("device " + in_quotes(fields.address) +
                   " is not an absolute path such as /dev/virtio-ports/NAME:-");
  }
  uint32_t speed = 0;
  if (fields.port != "-") {
    const auto number = parse_number<uint32_t>(fields.port);
    if (!number || !termios_speed(*number)) {
      return failure("port " + in_quotes(fields.port) +
                     " of a device is neither - nor a usual speed such as 9600 or 115200");
    }
    speed = *number;
  }
  return Address{Address::Kind::kDevice, std::string(fields.address), speed};
}

tl::expected<SocketAddress, std::string> unix_address(const std::string& path) {
  SocketAddress address;
  auto* unix_address = reinterpret_cast<sockaddr_un*>(&address.storage);
  const bool abstract = path.starts_with('@');
  const size_t length = path.size() - (abstract ? 1 : 0);
  if (length == 0 || length > kMaxUnixPath) {
    return failure("the path of a unix socket is " + std::to_string(length) +
                   " bytes long, it can be 1 to " + std::to_string(kMaxUnixPath));
  }
  unix_address->sun_family = AF_UNIX;
  std::memcpy(unix_address->sun_path, path.data(), path.size());
  if (abstract) unix_address->sun_path[0] = '\0';
  // The length ends an abstract name; it includes the NUL of a path.
  address.length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1));
  return address;
}

std::string unix_to_string(const SocketAddress& address) {
  constexpr size_t kStart = offsetof(sockaddr_un, sun_path);
  const auto* unix_address = reinterpret_cast<const sockaddr_un*>(&address.storage);
  const size_t size = address.length > kStart ? std::min<size_t>(address.length - kStart,
                                                                 sizeof(unix_address->sun_path))
                                              : 0;
  if (size == 0) return "unix";
  const char* path = unix_address->sun_path;
  if (path[0] == '\0') return "@" + printable(std::string_view(path + 1, size - 1));
  return printable(std::string_view(path, strnlen(path, size)));
}

}  // namespace

SocketAddress SocketAddress::from(const sockaddr* address, socklen_t length) {
  SocketAddress result;
  result.length = std::min<socklen_t>(length, sizeof(result.storage));
  if (address != nullptr) std::memcpy(&result.storage, address, result.length);
  return result;
}

std::string SocketAddress::to_string() const {
  char text[INET6_ADDRSTRLEN] = "";
  switch (family()) {
    case AF_INET: {
      const auto* v4 = reinterpret_cast<const sockaddr_in*>(&storage);
      inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
      return std::string(text) + ":" + std::to_string(ntohs(v4->sin_port));
    }
    case AF_INET6: {
      const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage);
      inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
      std::string scope;
      if (v6->sin6_scope_id != 0) scope = "%" + std::to_string(v6->sin6_scope_id);
      return "[" + std::string(text) + scope + "]:" + std::to_string(ntohs(v6->sin6_port));
    }
    case AF_VSOCK: {
      const auto* vm = reinterpret_cast<const sockaddr_vm*>(&storage);
      const std::string cid = vm->svm_cid == VMADDR_CID_ANY ? "any" : std::to_string(vm->svm_cid);
      return "vsock:" + cid + ":" + std::to_string(vm->svm_port);
    }
    case AF_UNIX:
      return unix_to_string(*this);
    case AF_UNSPEC:
      return "unknown address";
    default:
      return "address family " + std::to_string(family());
  }
}

bool SocketAddress::is_loopback() const {
  if (family() == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&storage);
    return ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
  }
  if (family() == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage);
    return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) && v6->sin6_addr.s6_addr[12] == IN_LOOPBACKNET);
  }
  return false;
}

bool Address::needs_resolver() const {
  return kind == Kind::kTcp && !is_wildcard() && !parse_ip(host, 0);
}

std::string Address::to_string() const {
  switch (kind) {
    case Kind::kUnix:
      return printable(host);
    case Kind::kTcp:
      if (host.find(':') != std::string::npos) return "[" + host + "]:" + std::to_string(port);
      return host + ":" + std::to_string(port);
    case Kind::kVsock:
      return "vsock:" + (host == std::to_string(VMADDR_CID_ANY) ? "any" : host) + ":" +
             std::to_string(port);
    case Kind::kDevice:
      return printable(host) + (port == 0 ? "" : " at " + std::to_string(port) + " baud");
  }
  return {};
}

tl::expected<ParsedAddress, std::string> parse_address(std::string_view text, AddressUse use,
                                                       std::optional<Address::Kind> kind) {
  if (text.find('\0') != std::string_view::npos) return failure("there is a NUL byte in it");
  const auto fields = split_fields(text);
  if (!fields) return failure(fields.error());
  if (!kind) {
    kind = fields->port == "-" ? Address::Kind::kUnix : Address::Kind::kTcp;
  }
  tl::expected<Address, std::string> address;
  switch (*kind) {
    case Address::Kind::kUnix:
      address = to_unix_address(*fields);
      break;
    case Address::Kind::kTcp:
      address = to_tcp_address(*fields, use);
      break;
    case Address::Kind::kVsock:
      address = to_vsock_address(*fields, use);
      break;
    case Address::Kind::kDevice:
      address = to_device_address(*fields);
      break;
  }
  if (!address) return failure(address.error());
  ParsedAddress parsed{*std::move(address), std::nullopt};
  if (fields->channel) {
    auto channel = parse_channel_name(*fields->channel);
    if (!channel) return failure(channel.error());
    parsed.channel = *std::move(channel);
  }
  return parsed;
}

tl::expected<std::string, std::string> parse_channel_name(std::string_view text) {
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c);
  };
  if (is_number(text)) {
    const auto number = parse_number<unsigned>(text);
    if (number && *number <= kMaxChannelId) return std::to_string(*number);
    return failure("channel number " + in_quotes(text) + " is not a number from 0 to " +
                   std::to_string(kMaxChannelId));
  }
  if (text.size() > kMaxChannelName) {
    return failure("a channel name of " + std::to_string(text.size()) +
                   " characters is too long: the limit is " + std::to_string(kMaxChannelName));
  }
  const bool known = std::all_of(text.begin(), text.end(), [&](char c) {
    return is_plain(c) || c == '-' || c == '_' || c == '.';
  });
  if (!known || text.empty() || !is_plain(text.front())) {
    return failure("channel name " + in_quotes(text) +
                   " is not a name: use letters, digits, '-', '_' and '.', and begin with a letter "
                   "or a digit");
  }
  return std::string(text);
}

tl::expected<uint16_t, std::string> parse_port(std::string_view text) {
  if (text.empty()) return failure("the port is empty: write a number, a service name, or -");
  if (is_number(text)) {
    const auto number = parse_number<uint16_t>(text);
    if (number) return *number;
    return failure("port " + in_quotes(text) + " is too large: use a number from 1 to 65535");
  }
  const auto service = find_service(text);
  if (service) return *service;
  return failure("port " + in_quotes(text) +
                 " is neither a number from 1 to 65535 nor a tcp service in /etc/services");
}

std::optional<SocketAddress> parse_ip(std::string_view text, uint16_t port) {
  SocketAddress address;
  std::string literal(text);
  if (text.find('\0') != std::string_view::npos) return std::nullopt;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  if (inet_pton(AF_INET, literal.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    address.length = sizeof(sockaddr_in);
    return address;
  }
  std::string scope;
  const size_t percent = literal.find('%');
  if (percent != std::string::npos) {
    scope = literal.substr(percent + 1);
    literal.resize(percent);
  }
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (inet_pton(AF_INET6, literal.c_str(), &v6->sin6_addr) != 1) return std::nullopt;
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(port);
  address.length = sizeof(sockaddr_in6);
  if (percent != std::string::npos) {
    const auto index = parse_number<uint32_t>(scope);
    v6->sin6_scope_id = index ? *index : if_nametoindex(scope.c_str());
    if (v6->sin6_scope_id == 0) return std::nullopt;
  }
  return address;
}

bool is_host_name(std::string_view text) {
  if (text.ends_with('.')) text.remove_suffix(1);
  if (text.empty() || text.size() > kMaxHostName) return false;
  std::string_view label;
  while (true) {
    const size_t dot = text.find('.');
    label = text.substr(0, dot);
    if (label.empty() || label.size() > kMaxLabel) return false;
    if (label.front() == '-' || label.back() == '-') return false;
    for (const char c : label) {
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      if (!letter && !is_digit(c) && c != '-' && c != '_') return false;
    }
    if (dot == std::string_view::npos) break;
    text.remove_prefix(dot + 1);
  }
  // 127.1 and 300.0.0.1 are mistyped addresses: no top-level domain is a number.
  return !is_number(label);
}

tl::expected<SocketAddress, std::string> to_socket_address(const Address& address) {
  switch (address.kind) {
    case Address::Kind::kUnix:
      return unix_address(address.host);
    case Address::Kind::kTcp: {
      const auto port = static_cast<uint16_t>(address.port);
      if (address.is_wildcard()) return any_address(AF_INET6, port);
      if (const auto literal = parse_ip(address.host, port)) return *literal;
      return failure(in_quotes(address.host) + " is a host name: it has to be resolved first");
    }
    case Address::Kind::kVsock: {
      const auto cid = parse_number<uint32_t>(address.host);
      if (!cid) return failure("vsock CID " + in_quotes(address.host) + " is not a number");
      SocketAddress result;
      auto* vm = reinterpret_cast<sockaddr_vm*>(&result.storage);
      vm->svm_family = AF_VSOCK;
      vm->svm_cid = *cid;
      vm->svm_port = address.port;
      result.length = sizeof(sockaddr_vm);
      return result;
    }
    case Address::Kind::kDevice:
      return failure(in_quotes(address.host) + " is a device: it is opened, not connected to");
  }
  return failure("unknown kind of address");
}

SocketAddress any_address(int family, uint16_t port) {
  SocketAddress address;
  if (family == AF_INET) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    address.length = sizeof(sockaddr_in);
  } else {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    address.length = sizeof(sockaddr_in6);
  }
  return address;
}

}  // namespace virtproxy
