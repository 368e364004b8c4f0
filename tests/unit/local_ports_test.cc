#include "uring/net/local_ports.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <set>
#include <vector>

#include "uring/base/unique_fd.h"

namespace virtproxy {
namespace {

SocketAddress address_of(int fd) {
  SocketAddress address;
  address.length = sizeof address.storage;
  EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.length), 0);
  return address;
}

uint16_t port_of(int fd) {
  const SocketAddress address = address_of(fd);
  return ntohs(address.family() == AF_INET
                   ? reinterpret_cast<const sockaddr_in*>(address.data())->sin_port
                   : reinterpret_cast<const sockaddr_in6*>(address.data())->sin6_port);
}

UniqueFd listen_on_loopback(int family) {
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage at{};
  at.ss_family = static_cast<sa_family_t>(family);
  if (family == AF_INET) {
    reinterpret_cast<sockaddr_in*>(&at)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  } else {
    reinterpret_cast<sockaddr_in6*>(&at)->sin6_addr = in6addr_loopback;
  }
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<sockaddr*>(&at),
                 family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6)),
            0);
  EXPECT_EQ(listen(fd.get(), 1000), 0);
  return fd;
}

bool kernel_has_windows() {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM, 0));
  uint32_t value = 0;
  socklen_t size = sizeof value;
  return getsockopt(fd.get(), IPPROTO_IP, 51, &value, &size) == 0;
}

class LocalPortsTest : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Families, LocalPortsTest, testing::Values(AF_INET, AF_INET6),
                         [](const auto& family) {
                           return std::string(family.param == AF_INET ? "ipv4" : "ipv6");
                         });

// A port is chosen from a window while one of the windows has a free one, and from all ports after
// that: no connection fails for want of a port that exists.
TEST_P(LocalPortsTest, ChoosesFromWindowsAndThenFromAllPorts) {
  if (!kernel_has_windows()) GTEST_SKIP() << "IP_LOCAL_PORT_RANGE came with Linux 6.3";
  const UniqueFd listener = listen_on_loopback(GetParam());
  const SocketAddress to = address_of(listener.get());
  constexpr PortRange kRange{40000, 40063};
  LocalPorts ports(kRange, 8, 1);
  std::vector<UniqueFd> clients;
  std::set<uint16_t> inside;
  for (int i = 0; i < 100; ++i) {
    UniqueFd fd(socket(GetParam(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(ports.connect(fd.get(), to), 0) << "connection " << i;
    const uint16_t port = port_of(fd.get());
    if (port >= kRange.first && port <= kRange.last) inside.insert(port);
    clients.push_back(std::move(fd));
  }
  // Ports that other processes have bound are not to be had.
  EXPECT_GE(inside.size(), 40u);
}

// The error is the kernel's, as without windows.
TEST_P(LocalPortsTest, ReportsWhyAConnectionFailed) {
  UniqueFd listener = listen_on_loopback(GetParam());
  const SocketAddress to = address_of(listener.get());
  listener.reset();
  const UniqueFd fd(socket(GetParam(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(LocalPorts::of_process().connect(fd.get(), to), ECONNREFUSED);
}

// Without a known range all ports are searched.
TEST_P(LocalPortsTest, WorksWithoutARange) {
  const UniqueFd listener = listen_on_loopback(GetParam());
  LocalPorts ports({}, LocalPorts::kWindow, 1);
  const UniqueFd fd(socket(GetParam(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(ports.connect(fd.get(), address_of(listener.get())), 0);
}

}  // namespace
}  // namespace virtproxy
