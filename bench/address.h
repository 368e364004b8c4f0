// Addresses as the command line writes them:
//
//   unix:/path/of/socket     unix:@abstract-name
//   tcp:host:port            tcp:[ipv6]:port
//
// A host name is resolved when the address is parsed; its first answer counts.
#pragma once

#include <sys/socket.h>

#include <string>
#include <string_view>

#include "failure.h"
#include "uring/base/unique_fd.h"

namespace virtproxy::bench {

struct Address {
  std::string text;
  sockaddr_storage storage{};
  socklen_t length = 0;

  bool is_unix() const { return storage.ss_family == AF_UNIX; }
  // The file a unix address names; empty for abstract names and TCP.
  std::string file() const;
  const sockaddr* data() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

// All throw Failure(kUsage) with one clear line. A unix or tcp address by its kind.
Address parse_address(std::string_view text);
// What is behind any kind is a path or @name, or host:port.
Address parse_unix_address(std::string_view text);
Address parse_inet_address(std::string_view text);

struct SocketOptions {
  int send_buffer = 0;  // 0: the kernel's default
  int receive_buffer = 0;
};

// A non-blocking stream socket, with TCP_NODELAY on TCP; invalid with errno set on error.
UniqueFd open_socket(const Address& address, const SocketOptions& options);
void apply_options(int fd, bool is_unix, const SocketOptions& options);

// Listens, after removing a socket file that nobody listens on any more. Throws Failure(kUsage).
UniqueFd open_listener(const Address& address, const SocketOptions& options);

}  // namespace virtproxy::bench
