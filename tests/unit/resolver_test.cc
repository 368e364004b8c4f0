#include "uring/net/resolver.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace virtproxy {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// What a daemon does with a Resolver, for at most `limit`, until `count` results are there.
std::map<Resolver::Id, Resolver::Result> drive(Resolver& resolver, size_t count,
                                               std::chrono::milliseconds limit = 10s) {
  std::map<Resolver::Id, Resolver::Result> results;
  const auto end = Clock::now() + limit;
  while (true) {
    while (auto done = resolver.next()) results.emplace(done->id, std::move(done->result));
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
    if (results.size() >= count || left <= 0ms) return results;
    const std::vector<Resolver::Watch> watches = resolver.watches();
    std::vector<pollfd> polls;
    for (const auto& watch : watches) {
      polls.push_back({watch.fd,
                       static_cast<short>((watch.read ? POLLIN : 0) | (watch.write ? POLLOUT : 0)),
                       0});
    }
    const auto wait = std::min(resolver.timeout().value_or(left), left);
    poll(polls.data(), polls.size(), static_cast<int>(wait.count()));
    for (size_t i = 0; i < polls.size(); ++i) {
      const short got = polls[i].revents;
      if (got == 0) continue;
      resolver.process(watches[i].key, (got & (POLLIN | POLLERR | POLLHUP)) != 0,
                       (got & (POLLOUT | POLLERR | POLLHUP)) != 0);
    }
    resolver.process_timeouts();
  }
}

Resolver::Result resolve(Resolver& resolver, const std::string& host, uint16_t port) {
  const auto id = resolver.start(host, port);
  auto results = drive(resolver, 1);
  const auto found = results.find(id);
  if (found == results.end()) return tl::unexpected<std::string>("no result at all");
  return found->second;
}

std::vector<std::string> names(const Resolver::Result& result) {
  std::vector<std::string> list;
  if (!result) return list;
  for (const SocketAddress& address : *result) list.push_back(address.to_string());
  return list;
}

// A name server on the loopback that answers as it is told, or not at all.
class NameServer {
 public:
  explicit NameServer(bool answers) {
    fd_ = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    auto address = *parse_ip("127.0.0.1", 0);
    EXPECT_EQ(bind(fd_, address.data(), address.length), 0);
    address.length = sizeof(address.storage);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address.storage), &address.length), 0);
    text_ = address.to_string();
    if (answers) thread_ = std::thread([this] { serve(); });
  }

  ~NameServer() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    close(fd_);
  }

  const std::string& text() const { return text_; }
  int queries() const { return queries_; }

 private:
  // good.test has one address of each kind; every other name does not exist.
  void serve() {
    while (!stop_) {
      pollfd ready{fd_, POLLIN, 0};
      if (poll(&ready, 1, 20) <= 0) continue;
      std::string packet(512, '\0');
      SocketAddress peer;
      peer.length = sizeof(peer.storage);
      const ssize_t got = recvfrom(fd_, packet.data(), packet.size(), 0,
                                   reinterpret_cast<sockaddr*>(&peer.storage), &peer.length);
      if (got < 17) continue;
      ++queries_;
      packet.resize(static_cast<size_t>(got));
      const size_t question_end = packet.find('\0', 12) + 5;
      if (question_end > packet.size()) continue;
      packet.resize(question_end);
      const bool known = packet.compare(12, 11, "\4good\4test\0", 11) == 0;
      const bool wants_v6 = packet[question_end - 3] == 28;
      packet[2] = '\x81';
      packet[3] = static_cast<char>(known ? 0x80 : 0x83);
      packet[6] = 0;
      packet[7] = known ? 1 : 0;
      for (size_t i = 8; i < 12; ++i) packet[i] = 0;
      if (known) {
        packet += std::string("\xc0\x0c\x00", 3);
        packet += wants_v6 ? '\x1c' : '\x01';
        packet += std::string("\0\1\0\0\0\x3c\0", 7);
        const auto address = *parse_ip(wants_v6 ? "2001:db8::7" : "192.0.2.7", 0);
        if (wants_v6) {
          const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address.data());
          packet += '\x10';
          packet.append(reinterpret_cast<const char*>(&v6->sin6_addr), 16);
        } else {
          const auto* v4 = reinterpret_cast<const sockaddr_in*>(address.data());
          packet += '\x04';
          packet.append(reinterpret_cast<const char*>(&v4->sin_addr), 4);
        }
      }
      sendto(fd_, packet.data(), packet.size(), 0, peer.data(), peer.length);
    }
  }

  int fd_ = -1;
  std::string text_;
  std::atomic<bool> stop_{false};
  std::atomic<int> queries_{0};
  std::thread thread_;
};

ResolverConfig quick(const NameServer& server) { return {server.text(), 100ms, 2, 1000ms}; }

TEST(ResolverTest, IdleWantsNothing) {
  Resolver resolver;
  EXPECT_FALSE(resolver.timeout());
  EXPECT_TRUE(resolver.watches().empty());
  EXPECT_FALSE(resolver.next());
  resolver.process(1, true, true);
  resolver.process_timeouts();
  resolver.cancel(1);
}

TEST(ResolverTest, LiteralsAreThereAtOnce) {
  Resolver resolver;
  const auto v4 = resolver.start("192.0.2.1", 80);
  const auto v6 = resolver.start("2001:db8::1", 443);
  EXPECT_EQ(resolver.timeout(), 0ms);
  EXPECT_TRUE(resolver.watches().empty());
  auto first = resolver.next();
  auto second = resolver.next();
  ASSERT_TRUE(first && second);
  EXPECT_EQ(first->id, v4);
  EXPECT_EQ(names(first->result), std::vector<std::string>{"192.0.2.1:80"});
  EXPECT_EQ(second->id, v6);
  EXPECT_EQ(names(second->result), std::vector<std::string>{"[2001:db8::1]:443"});
  EXPECT_FALSE(resolver.timeout());
}

TEST(ResolverTest, LocalhostNeedsNoNetwork) {
  const NameServer silent(false);
  Resolver resolver(quick(silent));
  for (const char* host : {"localhost", "LOCALHOST"}) {
    const auto start = Clock::now();
    const auto result = resolve(resolver, host, 8080);
    ASSERT_TRUE(result) << result.error();
    const auto list = names(result);
    EXPECT_TRUE(std::find(list.begin(), list.end(), "127.0.0.1:8080") != list.end() ||
                std::find(list.begin(), list.end(), "[::1]:8080") != list.end());
    EXPECT_LT(Clock::now() - start, 80ms) << "before the first try could time out";
  }
}

TEST(ResolverTest, NotANameAtAll) {
  Resolver resolver;
  for (const char* host : {"", "a b", "127.1", "300.1.1.1", "a\nb", "-x"}) {
    const auto result = resolve(resolver, host, 1);
    ASSERT_FALSE(result) << host;
    EXPECT_NE(result.error().find("neither an IP address nor a host name"), std::string::npos);
    EXPECT_EQ(printable(result.error()), result.error());
  }
}

TEST(ResolverTest, AsksTheNameServer) {
  const NameServer server(true);
  Resolver resolver(quick(server));
  const auto result = resolve(resolver, "good.test", 80);
  ASSERT_TRUE(result) << result.error();
  auto list = names(result);
  std::sort(list.begin(), list.end());
  EXPECT_EQ(list, (std::vector<std::string>{"192.0.2.7:80", "[2001:db8::7]:80"}));
  EXPECT_TRUE(resolver.watches().empty()) << "no socket is kept";
}

TEST(ResolverTest, UnknownName) {
  const NameServer server(true);
  Resolver resolver(quick(server));
  const auto result = resolve(resolver, "bad.test", 80);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().find("host name 'bad.test' not found"), std::string::npos)
      << result.error();
}

TEST(ResolverTest, OneQueryServesAllWhoWaitForAName) {
  const NameServer server(true);
  Resolver resolver(quick(server));
  std::vector<Resolver::Id> ids;
  for (uint16_t port = 1; port <= 100; ++port) ids.push_back(resolver.start("good.test", port));
  resolver.cancel(ids[50]);
  const auto results = drive(resolver, 99);
  EXPECT_EQ(results.size(), 99U);
  EXPECT_EQ(results.count(ids[50]), 0U);
  ASSERT_TRUE(results.at(ids[9]));
  EXPECT_TRUE(names(results.at(ids[9])).front().ends_with(":10"));
  EXPECT_EQ(server.queries(), 2) << "A and AAAA";
}

TEST(ResolverTest, SilentServerEndsInAnError) {
  const NameServer silent(false);
  Resolver resolver({silent.text(), 2000ms, 2, 500ms});
  const auto start = Clock::now();
  const auto result = resolve(resolver, "nobody.test", 80);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().find("host name 'nobody.test' not resolved: no answer"),
            std::string::npos)
      << result.error();
  EXPECT_GE(Clock::now() - start, 490ms);
  EXPECT_LT(Clock::now() - start, 1500ms);
}

TEST(ResolverTest, TriesRunOutBeforeTheTotalLimit) {
  const NameServer silent(false);
  Resolver resolver({silent.text(), 100ms, 2, 8000ms});
  const auto start = Clock::now();
  const auto result = resolve(resolver, "nobody.test.", 80);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().find("nobody.test"), std::string::npos) << result.error();
  EXPECT_LT(Clock::now() - start, 3s);
}

TEST(ResolverTest, RefusingServerEndsInAnError) {
  std::string address;
  { address = NameServer(false).text(); }
  Resolver resolver({address, 200ms, 2, 2000ms});
  const auto result = resolve(resolver, "nobody.test", 80);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().find("host name 'nobody.test' not resolved"), std::string::npos)
      << result.error();
}

TEST(ResolverTest, WhateverThisMachineHasAnUnknownNameFails) {
  Resolver resolver;
  const auto start = Clock::now();
  const auto result = resolve(resolver, "no-such-host.invalid", 80);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().find("no-such-host.invalid"), std::string::npos) << result.error();
  EXPECT_LT(Clock::now() - start, 9s);
}

TEST(ResolverTest, CancelledNeverComesBack) {
  const NameServer silent(false);
  Resolver resolver(quick(silent));
  const auto gone = resolver.start("nobody.test", 80);
  const auto literal = resolver.start("192.0.2.1", 80);
  resolver.cancel(gone);
  resolver.cancel(literal);
  resolver.cancel(gone);
  EXPECT_TRUE(drive(resolver, 1, 1200ms).empty());
  EXPECT_FALSE(resolver.timeout()) << "the query itself is over";
  EXPECT_TRUE(resolver.watches().empty());
}

TEST(ResolverTest, WaitersWhoComeLaterHaveTheirOwnTime) {
  const NameServer silent(false);
  Resolver resolver({silent.text(), 2000ms, 1, 300ms});
  const auto first = resolver.start("nobody.test", 80);
  auto results = drive(resolver, 1);
  EXPECT_EQ(results.count(first), 1U);
  const auto start = Clock::now();
  const auto second = resolver.start("nobody.test", 81);
  EXPECT_NE(first, second);
  results = drive(resolver, 1);
  EXPECT_EQ(results.count(second), 1U);
  EXPECT_GE(Clock::now() - start, 290ms);
  EXPECT_LT(Clock::now() - start, 1s);
}

TEST(ResolverTest, CanBeDestroyedWhileBusy) {
  const NameServer silent(false);
  Resolver resolver(quick(silent));
  resolver.start("a.test", 1);
  resolver.start("b.test", 1);
  resolver.start("192.0.2.1", 1);
  EXPECT_FALSE(resolver.watches().empty());
}

TEST(ResolverTest, WorksWithoutACAresChannel) {
  ResolverConfig config;
  config.servers = "not a server";
  Resolver resolver(config);
  const auto local = resolve(resolver, "localhost", 80);
  ASSERT_TRUE(local) << local.error();
  EXPECT_FALSE(local->empty());
  const auto other = resolve(resolver, "nobody.test", 80);
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().find("nobody.test"), std::string::npos);
}

}  // namespace
}  // namespace virtproxy
