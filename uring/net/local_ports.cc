#include "uring/net/local_ports.h"

#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <cerrno>
#include <fstream>

namespace virtproxy {
namespace {

// The first port in the lower half, the last in the upper one; 0 lifts the limit.
bool limit(int fd, PortRange window) {
  const uint32_t value = window.first | uint32_t{window.last} << 16;
  return setsockopt(fd, IPPROTO_IP, kLocalPortRange, &value, sizeof value) == 0;
}

PortRange read_range() {
  std::ifstream file("/proc/sys/net/ipv4/ip_local_port_range");
  unsigned first = 0;
  unsigned last = 0;
  if (!(file >> first >> last) || first == 0 || first > last || last > 65535) return {};
  return {static_cast<uint16_t>(first), static_cast<uint16_t>(last)};
}

uint64_t draw_seed() {
  uint64_t seed = 0;
  // Where the kernel has no random numbers yet, the order of windows can be predicted. The port
  // within a window is the kernel's choice.
  return getrandom(&seed, sizeof seed, GRND_NONBLOCK) == sizeof seed ? seed : 0;
}

// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
constexpr uint64_t kGoldenStep = 0x9e3779b97f4a7c15;
uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

}  // namespace

LocalPorts::LocalPorts(PortRange range, unsigned window, uint64_t seed)
    : range_(range),
      window_(window),
      windows_(range.first == 0 ? 0 : (range.last - range.first + 1u) / window),
      state_(seed) {}

LocalPorts& LocalPorts::of_process() {
  static LocalPorts ports(read_range(), kWindow, draw_seed());
  return ports;
}

PortRange LocalPorts::next_window() {
  const uint64_t number = mix(state_.fetch_add(kGoldenStep, std::memory_order_relaxed));
  const auto first = static_cast<uint16_t>(range_.first + number % windows_ * window_);
  return {first, static_cast<uint16_t>(first + window_ - 1)};
}

int LocalPorts::connect(int fd, const SocketAddress& address) {
  bool limited = false;
  for (unsigned tries = 0; windows_ > 1 && tries < kTries; ++tries) {
    if (!limit(fd, next_window())) break;
    limited = true;
    if (::connect(fd, address.data(), address.length) == 0) return 0;
    if (errno != EADDRNOTAVAIL) return errno;
  }
  // EADDRNOTAVAIL may also mean that the address cannot be reached from here at all.
  if (limited) (void)limit(fd, {});
  return ::connect(fd, address.data(), address.length) == 0 ? 0 : errno;
}

}  // namespace virtproxy
