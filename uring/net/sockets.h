// Listening sockets and the socket options every connection gets.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "core/time.h"
#include "uring/net/address.h"

namespace virtproxy {

// Mode and owner of a listener's unix path, and whether a TCP listener may be reached from
// elsewhere.
struct ListenRules {
  std::optional<mode_t> mode;  // else by the umask
  std::optional<uid_t> owner;  // else the user of the process
  std::optional<gid_t> group;
  bool allow_remote = false;  // TCP addresses that are not loopback

  friend bool operator==(const ListenRules&, const ListenRules&) = default;
};

// The path of a bound unix socket; empty for any other. Removed with this object, but only while it
// is still the socket that was bound.
class BoundPath {
 public:
  BoundPath() = default;
  // Right after bind(2).
  explicit BoundPath(const Address& address);
  BoundPath(BoundPath&& other) noexcept;
  BoundPath& operator=(BoundPath&& other) noexcept;
  ~BoundPath() { remove(); }
  // Before the socket is closed: another process may take over a path without a listener.
  void remove();
  // Leaves the path where it is: another process keeps the socket.
  void release() { path_.clear(); }

 private:
  std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// Listening sockets for one address. They belong to the caller, who closes them.
struct Listening {
  std::vector<int> sockets;
  BoundPath path;
  bool from_manager = false;  // a socket unit of the service manager, which keeps the address
};

// The addresses that a listener of this address may have: one, two for a wildcard, or all of a host
// name. Looks names up and waits for the answer: for start-up only. An error if the rules forbid
// one.
tl::expected<std::vector<SocketAddress>, std::string> listen_addresses(const Address& address,
                                                                       const ListenRules& rules);

// Binds the socket. A path has the mode of the rules from the moment it exists; the umask is the
// process's, so that no other thread may make files meanwhile. False with errno.
bool bind_to(int fd, const SocketAddress& at, const ListenRules& rules);

// Gives the path that was just bound the owner of the rules, if they have one. The path may lie
// where others can replace it, so it is opened without following links, and changed only if it is a
// socket of ours under no other name. Of a stream socket before listen(2): no client can connect
// before. False with errno.
bool give_away(const std::string& path, const ListenRules& rules);

// How long listen_on() tries again where an address is in use. A process that was killed keeps its
// addresses until the kernel has torn down its ring, some tens of milliseconds after it is gone.
inline constexpr Duration kAddressPatience = std::chrono::milliseconds(1500);

// Binds: one socket, or for a host name one for each of its addresses that this machine has. Looks
// names up and waits for the answer, and sleeps while an address is in use. The umask is the
// process's: no other thread may make files meanwhile. The sockets are left blocking: with O_NONBLOCK some kernels let an accept
// through the ring fail instead of wait. A unix path without a listener is unlinked
// first; one with a listener is an error.
tl::expected<Listening, std::string> listen_on(const Address& address, const ListenRules& rules,
                                               Duration patience = kAddressPatience);

// Makes a TCP listener refuse clients, and those that wait in its backlog see a reset. It keeps its
// address.
void stop_listening(int fd);
// Takes that back. False, with errno, if the kernel does not do it.
bool listen_again(int fd);

// What is wrong with a listener on an address that is not loopback, and what to do.
std::string remote_fault(const Address& address);

// What a TCP socket takes without having sent it, bytes.
inline constexpr uint64_t kMostUnsent = 256 * 1024;

// Small writes leave at once; an idle connection whose peer is gone ends within about a minute.
// Channels have a limit of their own (peer_timeout.h).
void prepare_tcp(int fd);

// For a TCP socket whose receive has reported the end, and whose own end was not sent: true if the
// connection was reset instead. The kernel reports a reset only once, and may have reported it to a
// send.
bool was_reset(int fd);

// From now on the connections of a TCP socket, or of a listener, are reset when they are closed,
// also by the kernel when this process is killed: otherwise a transfer that was cut off would end
// like a complete one.
void reset_on_close(int fd);
// Undoes reset_on_close(), for a connection that may end in an orderly way.
void end_on_close(int fd);

// Bytes that the kernel of the other side has not acknowledged yet. On a unix socket: the memory of
// those that were not read there.
int unacknowledged(int fd);

// Makes close(2) send a reset where the transport has one (TCP, vsock). A unix socket has none: its
// peer sees ECONNRESET if it had sent bytes that were not read, else the end of the stream and
// EPIPE.
void close_with_reset(int fd);

}  // namespace virtproxy
