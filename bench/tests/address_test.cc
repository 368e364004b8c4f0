#include "address.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cstddef>

namespace virtproxy::bench {
namespace {

TEST(Address, UnixPath) {
  const Address address = parse_address("unix:/run/some.sock");
  EXPECT_TRUE(address.is_unix());
  EXPECT_EQ(address.file(), "/run/some.sock");
  EXPECT_EQ(address.length, offsetof(sockaddr_un, sun_path) + 15);
}

TEST(Address, AbstractNameHasNoFileAndItsExactLength) {
  const Address address = parse_address("unix:@name");
  EXPECT_TRUE(address.is_unix());
  EXPECT_EQ(address.file(), "");
  EXPECT_EQ(address.length, offsetof(sockaddr_un, sun_path) + 5);
  EXPECT_EQ(reinterpret_cast<const sockaddr_un&>(address.storage).sun_path[0], '\0');
}

TEST(Address, Ipv4) {
  const Address address = parse_address("tcp:127.0.0.1:8080");
  ASSERT_EQ(address.storage.ss_family, AF_INET);
  const auto& in = reinterpret_cast<const sockaddr_in&>(address.storage);
  EXPECT_EQ(ntohs(in.sin_port), 8080);
  EXPECT_EQ(ntohl(in.sin_addr.s_addr), INADDR_LOOPBACK);
}

TEST(Address, Ipv6NeedsBrackets) {
  const Address address = parse_address("tcp:[::1]:65535");
  ASSERT_EQ(address.storage.ss_family, AF_INET6);
  EXPECT_EQ(ntohs(reinterpret_cast<const sockaddr_in6&>(address.storage).sin6_port), 65535);
  EXPECT_THROW(parse_address("tcp:::1:65535"), Failure);
}

class BadAddress : public testing::TestWithParam<std::string> {};

TEST_P(BadAddress, IsAUsageErrorOfOneLine) {
  try {
    parse_address(GetParam());
    FAIL() << "accepted";
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.outcome(), Outcome::kUsage);
    EXPECT_EQ(std::string(failure.what()).find('\n'), std::string::npos);
  }
}

INSTANTIATE_TEST_SUITE_P(All, BadAddress,
                         testing::Values("", "unix", "unix:", "unix:@", "/path", "tcp:", "tcp:host",
                                         "tcp:127.0.0.1:", "tcp:127.0.0.1:0", "tcp:127.0.0.1:65536",
                                         "tcp:127.0.0.1:12x", "tcp::80", "tcp:[::1]", "tcp:[::1",
                                         "tcp:[::1]80", "unix:" + std::string(108, 'x'),
                                         "unix:@" + std::string(108, 'x')));

TEST(Address, LongestNamesFit) {
  EXPECT_NO_THROW(parse_address("unix:" + std::string(107, 'x')));
  EXPECT_NO_THROW(parse_address("unix:@" + std::string(107, 'x')));
}

TEST(Address, ListenerReplacesAStaleFileOnly) {
  const std::string path = testing::TempDir() + "bench_listener_test.sock";
  const Address address = parse_address("unix:" + path);
  { const UniqueFd stale = open_listener(address, {}); }
  const UniqueFd live = open_listener(address, {});
  EXPECT_TRUE(live.valid());
  EXPECT_THROW(open_listener(address, {}), Failure);
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace virtproxy::bench
