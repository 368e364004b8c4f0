// The local ports that connect(2) may choose from, in windows.
//
// connect(2) looks for a local port whose connection to the same address is not taken, one port
// after another from a random one on. Where thousands of connections lead to one address, most
// ports are taken and one call tests up to all of them: 1.1 ms of processor time on average from
// 14,000 connections on (Linux 6.18, 28,232 ports), and 7 ms were seen. A turn of the loop waits
// for that. IP_LOCAL_PORT_RANGE, from Linux 6.3 on, limits the search to a window: the slowest of
// 18,000 calls took 0.2 ms. Older kernels search everything.
#pragma once

#include <atomic>
#include <cstdint>

#include "uring/net/address.h"

namespace virtproxy {

// IP_LOCAL_PORT_RANGE of the kernel's interface, which glibc names from 2.37 on.
inline constexpr int kLocalPortRange = 51;

struct PortRange {
  uint16_t first = 0;
  uint16_t last = 0;
};

class LocalPorts {
 public:
  static constexpr unsigned kWindow = 512;
  // Windows that are tried before all ports are searched.
  static constexpr unsigned kTries = 8;

  // `range` is divided into windows of `window` ports; a rest at its end is in no window. `seed`
  // makes the order of windows unpredictable to peers.
  LocalPorts(PortRange range, unsigned window, uint64_t seed);

  // For this process. The first call reads net.ipv4.ip_local_port_range, so it has to be made
  // before the file system is out of reach. After a change of that setting the kernel ignores
  // windows outside of it and searches all ports.
  static LocalPorts& of_process();

  // connect(2) on a TCP socket that is not bound. Returns 0 or an errno. Thread-safe.
  int connect(int fd, const SocketAddress& address);

 private:
  PortRange next_window();

  PortRange range_;
  unsigned window_;
  unsigned windows_;  // below two: all ports are searched
  std::atomic<uint64_t> state_;
};

}  // namespace virtproxy
