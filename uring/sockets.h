// Listening sockets and the socket options every connection gets.
#pragma once

#include <sys/types.h>

#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "uring/address.h"

namespace virtproxy {

// Listening sockets for an endpoint: one, or for a host name one for each of its addresses that
// this machine has. Looks names up and waits for the answer: for start-up only. The sockets are
// left blocking: with O_NONBLOCK some kernels let an accept through the ring fail instead of wait.
// A unix path that nobody listens on any more is unlinked first; one that somebody does listen on
// is an error.
tl::expected<std::vector<int>, std::string> listen_on(const Endpoint& endpoint);

// What listen_on() left in the file system: made right after it, removed only while it is still
// that.
class BoundPath {
 public:
  BoundPath() = default;
  explicit BoundPath(const Endpoint& endpoint);
  // Before the socket is closed: whoever finds a path that nobody listens on takes it over.
  void remove();

 private:
  std::string path_;  // empty: none
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// Small writes leave at once; a vanished TCP peer is noticed within about a minute.
void prepare_connection(int fd, int family);

// Whether the connection is gone in both directions, so that what reads as its end is none: a reset
// is told once, and a send may have been told.
bool was_reset(int fd);

// Makes close(2) send a reset where the transport has one (TCP, vsock). A unix socket has none: its
// peer sees ECONNRESET if it had sent bytes that were not read, else the end of the stream and
// EPIPE.
void close_with_reset(int fd);

}  // namespace virtproxy
