// What the minimal relays share: their command line and their sockets.
//
// A relay accepts on one address and carries each connection to another one, both ways, with
// half-close. It does nothing else: no limits, no time-outs, no log. Two of them in a row are the
// floor that a multiplexer is compared with.
//
//     relay-KIND LISTEN CONNECT [--buffer BYTES] [--sndbuf BYTES]
//
// Addresses: unix:/path or tcp:127.0.0.1:port.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <string>
#include <vector>

namespace virtproxy::relay {

struct Options {
  std::string listen;
  std::string connect;
  size_t buffer = 65536;  // bytes one read takes at most
  int sndbuf = 0;         // SO_SNDBUF of every socket; 0: the kernel's default
};

// Ends the process with a message where they make no sense.
Options parse_options(int argc, char** argv);

// Ends the process with `what` and errno.
[[noreturn]] void die(const char* what);

// A listening socket. Ends the process where it cannot be had.
int listen_at(const Options& options);

// Prepares an accepted client.
void prepare(int fd, const Options& options);

// A socket connected to where the relay leads, or -1. It blocks for as long as connecting takes,
// which on one machine is no time.
int connect_out(const Options& options);

// Buffers, or whatever a connection needs, that were used before: making new ones costs more than
// a short connection does.
template <typename T>
class Reserve {
 public:
  template <typename Make>
  T take(Make make) {
    if (free_.empty()) return make();
    T found = free_.back();
    free_.pop_back();
    return found;
  }
  void give(T item) { free_.push_back(item); }

 private:
  std::vector<T> free_;
};

}  // namespace virtproxy::relay
