// Addresses as they are written in options, and as the kernel takes them.
//
// An Address is the parsed form of the `<addr>:<port>[:channel]` part of -c, -o and -i: it may
// still hold a host name. A SocketAddress is what bind and connect take. to_socket_address() goes
// from the first to the second for everything but host names, which need a Resolver (resolver.h).
//
// How the text is read:
//   /run/x.sock:-      a path (a unix socket, or a device with the device methods); `-` is the port
//   @name:-            a unix socket in the abstract namespace
//   127.0.0.1:80       IPv4; localhost:http is a host name with a service name for a port
//   [::1]:80           IPv6; [fe80::1%eth0]:80 with the interface
//   *:80 or :80        listeners only: every local address, IPv6 and IPv4
//   2:5000             vsock, CID and port; the CID may also be `host`, `local` or, for listeners,
//                      `any`, * or empty
//   /dev/ttyS1:115200  a tty and its speed; `-` leaves the speed alone
// Any of them may be followed by `:CHANNEL`, the name or the number of a channel. A path may
// contain colons.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "uring/base/text.h"

namespace virtproxy {

// Longest path of a unix socket in bytes; an abstract name may be as long, not counting its '@'.
inline constexpr size_t kMaxUnixPath = 107;
// Highest number a channel may have, and most characters of its name.
inline constexpr unsigned kMaxChannelId = 65535;
inline constexpr size_t kMaxChannelName = 63;

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;

  // Copies at most sizeof(sockaddr_storage) bytes, e.g. what accept or getsockname filled in.
  static SocketAddress from(const sockaddr* address, socklen_t length);

  int family() const { return length == 0 ? AF_UNSPEC : storage.ss_family; }
  // Whether only this machine reaches it, going by the address alone: 127.0.0.0/8, ::1, and the
  // first as IPv4-mapped IPv6.
  bool is_loopback() const;
  const sockaddr* data() const { return reinterpret_cast<const sockaddr*>(&storage); }
  // For logs: 127.0.0.1:80, [::1]:80, /run/x.sock, @name, vsock:2:5000. Bytes of a
  // peer's unix path that do not print come out as \xNN.
  std::string to_string() const;
};

struct Address {
  enum class Kind { kUnix, kTcp, kVsock, kDevice };

  Kind kind = Kind::kTcp;
  // kTcp: host name, literal without brackets, or * for every local address. kUnix: path or @name.
  // kVsock: the CID as a decimal number (any is 4294967295). kDevice: path.
  std::string host;
  // kTcp and kVsock: the port. kDevice: speed of a tty in baud, 0 to leave it alone. kUnix: 0.
  uint32_t port = 0;

  // A tcp address that stands for every local address. Listen on any_address(AF_INET6) with
  // IPV6_V6ONLY off, and on any_address(AF_INET) where there is no IPv6.
  bool is_wildcard() const { return kind == Kind::kTcp && host == "*"; }
  // A tcp address whose host is a name: to_socket_address() refuses it, a Resolver takes it.
  bool needs_resolver() const;
  std::string to_string() const;

  friend bool operator==(const Address&, const Address&) = default;
};

// What an address is for decides which forms make sense.
enum class AddressUse {
  kListen,   // wildcards, and port 0 for any free tcp port
  kConnect,  // a definite address and port
};

struct ParsedAddress {
  Address address;
  std::optional<std::string> channel;  // as parse_channel_name() gives it; absent without one
};

// A channel's name: letters, digits, '-', '_' and '.', the first one a letter or a digit, at most
// kMaxChannelName. Digits alone are the number of a channel, and 007 is 7. Names are
// case-sensitive.
tl::expected<std::string, std::string> parse_channel_name(std::string_view text);

// Reads `<addr>:<port>[:channel]`. With no kind it is a unix socket when the port is `-`, tcp
// otherwise. The error names the part that is wrong and what would be right.
tl::expected<ParsedAddress, std::string> parse_address(std::string_view text, AddressUse use,
                                                       std::optional<Address::Kind> kind = {});

// A tcp port: a number from 0 to 65535 or a name from /etc/services, which is read without NSS so
// that a statically linked program can do it too.
tl::expected<uint16_t, std::string> parse_port(std::string_view text);

// An IPv4 or IPv6 literal, without brackets, with %interface if wanted; nothing for any other text.
std::optional<SocketAddress> parse_ip(std::string_view text, uint16_t port);

// Whether the text has the form of a host name (letters, digits, - _ and dots; not all numeric).
bool is_host_name(std::string_view text);

// For unix, vsock and numeric tcp addresses. A wildcard gives [::]. Host names and devices are
// errors.
tl::expected<SocketAddress, std::string> to_socket_address(const Address& address);

// 0.0.0.0 or [::] with this port; family is AF_INET or AF_INET6.
SocketAddress any_address(int family, uint16_t port);

}  // namespace virtproxy
