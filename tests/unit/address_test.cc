#include "uring/net/address.h"

#include <gtest/gtest.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cstddef>
#include <string>
#include <vector>

namespace virtproxy {
namespace {

using Kind = Address::Kind;
using testing::TestWithParam;
using testing::ValuesIn;

constexpr AddressUse kListen = AddressUse::kListen;
constexpr AddressUse kConnect = AddressUse::kConnect;

struct Good {
  std::string text;
  AddressUse use;
  std::optional<Kind> kind;
  Address address;
  std::optional<std::string> channel;
  std::string shown;
};

const std::vector<Good> kGood = {
    {"127.0.0.1:80", kConnect, {}, {Kind::kTcp, "127.0.0.1", 80}, {}, "127.0.0.1:80"},
    {"127.0.0.1:80:0", kConnect, {}, {Kind::kTcp, "127.0.0.1", 80}, "0", "127.0.0.1:80"},
    {"127.0.0.1:80:7", kConnect, Kind::kTcp, {Kind::kTcp, "127.0.0.1", 80}, "7", "127.0.0.1:80"},
    {"127.0.0.1:http", kConnect, {}, {Kind::kTcp, "127.0.0.1", 80}, {}, "127.0.0.1:80"},
    {"127.0.0.1:http:65535", kConnect, {}, {Kind::kTcp, "127.0.0.1", 80}, "65535", "127.0.0.1:80"},
    {"localhost:ssh", kConnect, {}, {Kind::kTcp, "localhost", 22}, {}, "localhost:22"},
    {"a-b.example.org:65535",
     kConnect,
     {},
     {Kind::kTcp, "a-b.example.org", 65535},
     {},
     "a-b.example.org:65535"},
    {"[::1]:80", kConnect, {}, {Kind::kTcp, "::1", 80}, {}, "[::1]:80"},
    {"[::1]:http:2", kListen, {}, {Kind::kTcp, "::1", 80}, "2", "[::1]:80"},
    {"[fe80::1%lo]:80", kConnect, {}, {Kind::kTcp, "fe80::1%lo", 80}, {}, "[fe80::1%lo]:80"},
    {"*:80", kListen, {}, {Kind::kTcp, "*", 80}, {}, "*:80"},
    {":80", kListen, {}, {Kind::kTcp, "*", 80}, {}, "*:80"},
    {":80:3", kListen, {}, {Kind::kTcp, "*", 80}, "3", "*:80"},
    {"127.0.0.1:0", kListen, {}, {Kind::kTcp, "127.0.0.1", 0}, {}, "127.0.0.1:0"},
    {"/run/x.sock:-", kConnect, {}, {Kind::kUnix, "/run/x.sock", 0}, {}, "/run/x.sock"},
    {"/run/x.sock:-:4", kConnect, {}, {Kind::kUnix, "/run/x.sock", 0}, "4", "/run/x.sock"},
    {"/run/x.sock:-:vm-1.x_y",
     kConnect,
     {},
     {Kind::kUnix, "/run/x.sock", 0},
     "vm-1.x_y",
     "/run/x.sock"},
    {"127.0.0.1:80:vm1", kConnect, {}, {Kind::kTcp, "127.0.0.1", 80}, "vm1", "127.0.0.1:80"},
    {"[::1]:80:007", kConnect, {}, {Kind::kTcp, "::1", 80}, "7", "[::1]:80"},
    {"/run/a:b:1:-", kConnect, {}, {Kind::kUnix, "/run/a:b:1", 0}, {}, "/run/a:b:1"},
    {"/run/a:b:-:1", kListen, {}, {Kind::kUnix, "/run/a:b", 0}, "1", "/run/a:b"},
    {"relative.sock:-", kListen, {}, {Kind::kUnix, "relative.sock", 0}, {}, "relative.sock"},
    {"./relative.sock:-:1",
     kListen,
     {},
     {Kind::kUnix, "./relative.sock", 0},
     "1",
     "./relative.sock"},
    {"@name:-", kListen, {}, {Kind::kUnix, "@name", 0}, {}, "@name"},
    {"@a:b:-:9", kConnect, Kind::kUnix, {Kind::kUnix, "@a:b", 0}, "9", "@a:b"},
    {"/" + std::string(106, 'x') + ":-",
     kConnect,
     {},
     {Kind::kUnix, "/" + std::string(106, 'x'), 0},
     {},
     "/" + std::string(106, 'x')},
    {"@" + std::string(107, 'x') + ":-",
     kConnect,
     {},
     {Kind::kUnix, "@" + std::string(107, 'x'), 0},
     {},
     "@" + std::string(107, 'x')},
    {"2:5000", kConnect, Kind::kVsock, {Kind::kVsock, "2", 5000}, {}, "vsock:2:5000"},
    {"host:5000:1", kConnect, Kind::kVsock, {Kind::kVsock, "2", 5000}, "1", "vsock:2:5000"},
    {"local:4294967294",
     kConnect,
     Kind::kVsock,
     {Kind::kVsock, "1", 4294967294},
     {},
     "vsock:1:4294967294"},
    {"any:5000", kListen, Kind::kVsock, {Kind::kVsock, "4294967295", 5000}, {}, "vsock:any:5000"},
    {"-1:5000", kListen, Kind::kVsock, {Kind::kVsock, "4294967295", 5000}, {}, "vsock:any:5000"},
    {":5000", kListen, Kind::kVsock, {Kind::kVsock, "4294967295", 5000}, {}, "vsock:any:5000"},
    {"/dev/vport0p1:-",
     kConnect,
     Kind::kDevice,
     {Kind::kDevice, "/dev/vport0p1", 0},
     {},
     "/dev/vport0p1"},
    {"/dev/ttyS1:115200",
     kConnect,
     Kind::kDevice,
     {Kind::kDevice, "/dev/ttyS1", 115200},
     {},
     "/dev/ttyS1 at 115200 baud"},
    {"/dev/ttyS1:9600:2",
     kConnect,
     Kind::kDevice,
     {Kind::kDevice, "/dev/ttyS1", 9600},
     "2",
     "/dev/ttyS1 at 9600 baud"},
    {"/dev/ttyS1:9600:vm1",
     kConnect,
     Kind::kDevice,
     {Kind::kDevice, "/dev/ttyS1", 9600},
     "vm1",
     "/dev/ttyS1 at 9600 baud"},
    {"/dev/serial/by-path/pci-0000:00:14.0:-",
     kConnect,
     Kind::kDevice,
     {Kind::kDevice, "/dev/serial/by-path/pci-0000:00:14.0", 0},
     {},
     "/dev/serial/by-path/pci-0000:00:14.0"},
    {"/dev/serial/by-path/pci-0000:00:14.0:115200",
     kConnect,
     Kind::kDevice,
     {Kind::kDevice, "/dev/serial/by-path/pci-0000:00:14.0", 115200},
     {},
     "/dev/serial/by-path/pci-0000:00:14.0 at 115200 baud"},
};

class GoodAddress : public TestWithParam<Good> {};

TEST_P(GoodAddress, Parses) {
  const Good& good = GetParam();
  const auto parsed = parse_address(good.text, good.use, good.kind);
  ASSERT_TRUE(parsed) << good.text << ": " << parsed.error();
  EXPECT_EQ(parsed->address, good.address) << good.text;
  EXPECT_EQ(parsed->channel, good.channel) << good.text;
  EXPECT_EQ(parsed->address.to_string(), good.shown);
}

INSTANTIATE_TEST_SUITE_P(Forms, GoodAddress, ValuesIn(kGood));

struct Bad {
  std::string text;
  AddressUse use;
  std::optional<Kind> kind;
  std::string message;
};

const std::vector<Bad> kBad = {
    {"", kConnect, {}, "no port"},
    {"127.0.0.1", kConnect, {}, "no port"},
    {"/run/x.sock", kConnect, {}, "no port"},
    {"[::1", kConnect, {}, "']' is missing"},
    {"[::1]", kConnect, {}, "no port after ']'"},
    {"[::1]80", kConnect, {}, "no port after ']'"},
    {"[localhost]:80", kConnect, {}, "is not an IPv6 address"},
    {"[127.0.0.1]:80", kConnect, {}, "is not an IPv6 address"},
    {"[::1%nosuchif0]:80", kConnect, {}, "is not an IPv6 address"},
    {"[::1]:-", kConnect, {}, "brackets are for IPv6"},
    {"[::1]:80:1:2", kConnect, {}, "channel name '1:2' is not a name"},
    {"::1:80", kConnect, {}, "in brackets"},
    {"1:2:3:4", kConnect, {}, "too many colons"},
    {"127.0.0.1:", kConnect, {}, "the port is empty"},
    {"127.0.0.1:65536", kConnect, {}, "too large"},
    {"127.0.0.1:99999999999999999999", kConnect, {}, "too large"},
    {"127.0.0.1:-5", kConnect, {}, "neither a number"},
    {"127.0.0.1:80x", kConnect, {}, "neither a number"},
    {"unix:relative", kConnect, {}, "begins with / behind unix:"},
    {"127.0.0.1:nosuchservice", kConnect, {}, "nor a tcp service in /etc/services"},
    {"127.0.0.1:80/tcp", kConnect, {}, "nor a tcp service"},
    {"127.0.0.1:80:", kConnect, {}, "channel name '' is not a name"},
    {"127.0.0.1:80:x y", kConnect, {}, "channel name 'x y' is not a name"},
    {"127.0.0.1:80:-1", kConnect, {}, "channel name '-1' is not a name"},
    {"127.0.0.1:80:+1", kConnect, {}, "channel name '+1' is not a name"},
    {"127.0.0.1:80:65536", kConnect, {}, "from 0 to 65535"},
    {"127.0.0.1:0", kConnect, {}, "port 0 cannot be connected to"},
    {":80", kConnect, {}, "no address to connect to"},
    {"*:80", kConnect, {}, "no address to connect to"},
    {"300.0.0.1:80", kConnect, {}, "neither an IP address nor a host name"},
    {"127.1:80", kConnect, {}, "neither an IP address nor a host name"},
    {"a..b:80", kConnect, {}, "neither an IP address nor a host name"},
    {"-a:80", kConnect, {}, "neither an IP address nor a host name"},
    {"a b:80", kConnect, {}, "neither an IP address nor a host name"},
    {"a\nb:80", kConnect, {}, "'a\\x0ab'"},
    {std::string(64, 'a') + ":80", kConnect, {}, "neither an IP address nor a host name"},
    {"/run/x.sock:80", kConnect, {}, "write - as the port"},
    {"@name:80", kConnect, {}, "write - as the port"},
    {"@:-", kConnect, {}, "abstract name is empty"},
    {":-", kConnect, {}, "the path is empty"},
    {"/run/x.sock:-:.x", kConnect, {}, "channel name '.x' is not a name"},
    {"/" + std::string(107, 'x') + ":-", kConnect, {}, "108 bytes long, the limit is 107"},
    {"@" + std::string(108, 'x') + ":-", kConnect, {}, "108 bytes long, the limit is 107"},
    {"/run/x.sock:-", kConnect, Kind::kTcp, "use a unix method"},
    {"127.0.0.1:80", kConnect, Kind::kUnix, "write - as the port"},
    {std::string("/a\0b:-", 6), kConnect, {}, "NUL"},
    {"any:5000", kConnect, Kind::kVsock, "no CID to connect to"},
    {"*:5000", kConnect, Kind::kVsock, "no CID to connect to"},
    {"guest:5000", kListen, Kind::kVsock, "vsock CID 'guest'"},
    {"4294967296:5000", kListen, Kind::kVsock, "vsock CID"},
    {"2:4294967295", kListen, Kind::kVsock, "vsock port"},
    {"2:http", kListen, Kind::kVsock, "vsock port 'http'"},
    {"2:-", kListen, Kind::kVsock, "vsock port '-'"},
    {"ttyS1:-", kConnect, Kind::kDevice, "not an absolute path"},
    {":-", kConnect, Kind::kDevice, "not an absolute path"},
    {"/dev/ttyS1:fast", kConnect, Kind::kDevice, "usual speed"},
    {"/dev/ttyS1:115201", kConnect, Kind::kDevice, "usual speed"},
};

class BadAddress : public TestWithParam<Bad> {};

TEST_P(BadAddress, SaysWhy) {
  const Bad& bad = GetParam();
  const auto parsed = parse_address(bad.text, bad.use, bad.kind);
  ASSERT_FALSE(parsed) << bad.text;
  EXPECT_NE(parsed.error().find(bad.message), std::string::npos)
      << bad.text << ": " << parsed.error();
  EXPECT_EQ(printable(parsed.error()), parsed.error());
}

INSTANTIATE_TEST_SUITE_P(Forms, BadAddress, ValuesIn(kBad));

TEST(SocketAddressTest, NumericTcp) {
  const auto v4 = to_socket_address({Kind::kTcp, "192.0.2.7", 8080});
  ASSERT_TRUE(v4);
  EXPECT_EQ(v4->family(), AF_INET);
  EXPECT_EQ(v4->length, sizeof(sockaddr_in));
  EXPECT_EQ(v4->to_string(), "192.0.2.7:8080");
  const auto v6 = to_socket_address({Kind::kTcp, "2001:DB8::7", 8080});
  ASSERT_TRUE(v6);
  EXPECT_EQ(v6->family(), AF_INET6);
  EXPECT_EQ(v6->length, sizeof(sockaddr_in6));
  EXPECT_EQ(v6->to_string(), "[2001:db8::7]:8080");
  const auto scoped = to_socket_address({Kind::kTcp, "fe80::1%7", 1});
  ASSERT_TRUE(scoped);
  EXPECT_EQ(scoped->to_string(), "[fe80::1%7]:1");
}

TEST(SocketAddressTest, WildcardIsDualStack) {
  const Address wildcard{Kind::kTcp, "*", 80};
  EXPECT_TRUE(wildcard.is_wildcard());
  EXPECT_FALSE(wildcard.needs_resolver());
  EXPECT_EQ(to_socket_address(wildcard)->to_string(), "[::]:80");
  EXPECT_EQ(any_address(AF_INET, 80).to_string(), "0.0.0.0:80");
}

TEST(SocketAddressTest, HostNamesNeedTheResolver) {
  const Address address{Kind::kTcp, "localhost", 80};
  EXPECT_TRUE(address.needs_resolver());
  const auto known = to_socket_address(address);
  ASSERT_FALSE(known);
  EXPECT_NE(known.error().find("'localhost' is a host name"), std::string::npos);
  EXPECT_FALSE(to_socket_address({Kind::kDevice, "/dev/ttyS0", 0}));
}

TEST(SocketAddressTest, UnixPathsAndAbstractNames) {
  const auto path = to_socket_address({Kind::kUnix, "/run/x", 0});
  ASSERT_TRUE(path);
  EXPECT_EQ(path->length, offsetof(sockaddr_un, sun_path) + 7);
  EXPECT_EQ(path->to_string(), "/run/x");
  const auto abstract = to_socket_address({Kind::kUnix, "@name", 0});
  ASSERT_TRUE(abstract);
  EXPECT_EQ(abstract->length, offsetof(sockaddr_un, sun_path) + 5);
  EXPECT_EQ(reinterpret_cast<const sockaddr_un*>(abstract->data())->sun_path[0], '\0');
  EXPECT_EQ(abstract->to_string(), "@name");
  const auto longest = to_socket_address({Kind::kUnix, "@" + std::string(107, 'x'), 0});
  ASSERT_TRUE(longest);
  EXPECT_EQ(longest->length, sizeof(sockaddr_un));
  EXPECT_EQ(longest->to_string(), "@" + std::string(107, 'x'));
  const auto too_long = to_socket_address({Kind::kUnix, std::string(108, 'x'), 0});
  ASSERT_FALSE(too_long);
  EXPECT_NE(too_long.error().find("107"), std::string::npos);
  EXPECT_FALSE(to_socket_address({Kind::kUnix, "@", 0}));
}

TEST(SocketAddressTest, Vsock) {
  const auto any = to_socket_address({Kind::kVsock, "4294967295", 5000});
  ASSERT_TRUE(any);
  EXPECT_EQ(any->family(), AF_VSOCK);
  EXPECT_EQ(reinterpret_cast<const sockaddr_vm*>(any->data())->svm_cid, VMADDR_CID_ANY);
  EXPECT_EQ(any->to_string(), "vsock:any:5000");
}

TEST(SocketAddressTest, ShowsWhatThePeerIs) {
  EXPECT_EQ(SocketAddress{}.to_string(), "unknown address");
  sockaddr_un nameless{};
  nameless.sun_family = AF_UNIX;
  EXPECT_EQ(
      SocketAddress::from(reinterpret_cast<sockaddr*>(&nameless), offsetof(sockaddr_un, sun_path))
          .to_string(),
      "unix");
  nameless.sun_path[0] = '\0';
  nameless.sun_path[1] = '\n';
  EXPECT_EQ(SocketAddress::from(reinterpret_cast<sockaddr*>(&nameless),
                                offsetof(sockaddr_un, sun_path) + 2)
                .to_string(),
            "@\\x0a");
}

TEST(PortTest, NumbersAndNames) {
  EXPECT_EQ(parse_port("0"), uint16_t{0});
  EXPECT_EQ(parse_port("65535"), uint16_t{65535});
  EXPECT_EQ(parse_port("http"), uint16_t{80});
  EXPECT_EQ(parse_port("www"), uint16_t{80}) << "an alias";
  EXPECT_FALSE(parse_port("tftp")) << "udp only";
}

}  // namespace
}  // namespace virtproxy
