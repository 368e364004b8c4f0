#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "uring/daemon/options.h"

namespace virtproxy {
namespace {

using Args = std::vector<std::string>;

ParseResult parse(const Args& more) {
  Args args{"virtproxy", "-c", "unix-listen:/run/vp.sock:-", "-o", "x:/run/x.sock:-"};
  args.insert(args.end(), more.begin(), more.end());
  std::vector<const char*> argv;
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  return parse_options(static_cast<int>(argv.size()), argv.data());
}

// What the first forward and all channels together are guarded by.
struct Security {
  std::optional<Account> user;
  bool sandbox = false;
  ListenRules listen;
  Acl clients;
  Acl peers;
};

Security parse_ok(const Args& more) {
  auto result = parse(more);
  if (result) {
    const ChannelSettings& channel = result->channels.back().settings;
    return {result->process.user,
            result->process.sandbox,
            result->oforwards.front().listen,
            result->oforwards.front().clients,
            {channel.peer_uids, channel.peer_gids, channel.peer_cids}};
  }
  ADD_FAILURE() << result.error().text;
  return {};
}

std::string fault(const Args& more) {
  const auto result = parse(more);
  if (result) return "no fault";
  EXPECT_EQ(result.error().code, 1);
  EXPECT_EQ(result.error().text.find('\n'), result.error().text.size() - 1) << "not one line";
  return result.error().text;
}

TEST(SecurityOptionsTest, WhatIsOnByDefault) {
  const Security of = parse_ok({});
  EXPECT_TRUE(of.sandbox);
  EXPECT_FALSE(of.user);
  EXPECT_FALSE(of.listen.mode);
  EXPECT_FALSE(of.listen.owner);
  EXPECT_FALSE(of.listen.group);
  EXPECT_FALSE(of.listen.allow_remote);
  EXPECT_FALSE(of.clients.guards_unix());
  EXPECT_FALSE(of.peers.guards_unix());
  EXPECT_FALSE(of.peers.guards_vsock());
}

TEST(SecurityOptionsTest, User) {
  EXPECT_EQ(parse_ok({"--user", "nobody"}).user, (Account{65534, 65534, {}}));
  EXPECT_EQ(parse_ok({"--user", "65534"}).user, (Account{65534, 65534, {}}));
  EXPECT_EQ(parse_ok({"--user", "nobody:root"}).user, (Account{65534, 0, {}}));
  EXPECT_EQ(parse_ok({"--user", "12345:54321"}).user, (Account{12345, 54321, {}}));
  EXPECT_EQ(parse_ok({"--user=nobody", "--user=12:34"}).user, (Account{12, 34, {}}));
  for (const char* bad : {"", ":", "nobody:", ":nogroup", "no-such", "nobody:no-such", "-1", "0x1",
                          "4294967295", "4294967296:1", "99999999999999999999:1", " nobody",
                          "nobody ", "NOBODY", "root", "0", "0:1", "nobody:nogroup:nogroup"}) {
    EXPECT_NE(fault({"--user", bad}), "no fault") << bad;
  }
}

TEST(SecurityOptionsTest, SocketsBelongToTheUserItRunsAs) {
  const ListenRules of_user = parse_ok({"--user", "nobody:root"}).listen;
  EXPECT_EQ(of_user.owner, 65534U);
  EXPECT_EQ(of_user.group, 0U);
  const ListenRules mixed = parse_ok({"--user", "nobody", "--socket-owner", ":0"}).listen;
  EXPECT_EQ(mixed.owner, 65534U);
  EXPECT_EQ(mixed.group, 0U);
}

TEST(SecurityOptionsTest, ModeAndOwner) {
  EXPECT_EQ(parse_ok({"--socket-mode", "0660"}).listen.mode, 0660U);
  EXPECT_EQ(parse_ok({"--socket-mode", "777"}).listen.mode, 0777U);
  EXPECT_EQ(parse_ok({"--socket-mode", "0"}).listen.mode, 0U);
  for (const char* bad : {"", "8", "0o660", "-1", "1000", "rw-rw----", "660 ", "0x1b0"}) {
    EXPECT_NE(fault({"--socket-mode", bad}).find("octal"), std::string::npos) << bad;
  }
  const ListenRules both = parse_ok({"--socket-owner", "nobody:root"}).listen;
  EXPECT_EQ(both.owner, 65534U);
  EXPECT_EQ(both.group, 0U);
  const ListenRules user = parse_ok({"--socket-owner", "7"}).listen;
  EXPECT_EQ(user.owner, 7U);
  EXPECT_FALSE(user.group);
  const ListenRules group = parse_ok({"--socket-owner", ":7"}).listen;
  EXPECT_FALSE(group.owner);
  EXPECT_EQ(group.group, 7U);
  for (const char* bad : {"", ":", "nobody:", "no-such", ":no-such", "a:b:c"}) {
    EXPECT_NE(fault({"--socket-owner", bad}), "no fault") << bad;
  }
}

TEST(SecurityOptionsTest, Lists) {
  const Security of = parse_ok({"--allow-uid", "nobody,7", "--allow-uid", "0", "--allow-gid",
                                "root", "--channel-allow-uid", "8", "--channel-allow-gid", "9"});
  EXPECT_EQ(of.clients.uids, (std::vector<uid_t>{65534, 7, 0}));
  EXPECT_EQ(of.clients.gids, (std::vector<gid_t>{0}));
  EXPECT_EQ(of.peers.uids, (std::vector<uid_t>{8}));
  EXPECT_EQ(of.peers.gids, (std::vector<gid_t>{9}));
  EXPECT_EQ(
      parse_ok({"-c", "vsock-listen:any:5:1", "--channel-allow-cid", "3,host,local"}).peers.cids,
      (std::vector<uint32_t>{3, 2, 1}));
  for (const char* option : {"--allow-uid", "--allow-gid", "--channel-allow-uid"}) {
    for (const char* bad : {"", ",", "1,", ",1", "1,,2", "no-such", "1 2", "-1"}) {
      EXPECT_NE(fault({option, bad}), "no fault") << option << " " << bad;
    }
  }
}

TEST(SecurityOptionsTest, AListThatGuardsNothingIsAFault) {
  EXPECT_NE(fault({"--channel-allow-cid", "3"}).find("there is none"), std::string::npos);
  const Args argv{"virtproxy", "-c", "unix-connect:/x:-", "-o", "x:127.0.0.1:80"};
  for (const char* option :
       {"--allow-uid", "--allow-gid", "--channel-allow-uid", "--channel-allow-gid"}) {
    std::vector<const char*> args;
    for (const std::string& arg : argv) args.push_back(arg.c_str());
    args.insert(args.end(), {option, "0"});
    EXPECT_FALSE(parse_options(static_cast<int>(args.size()), args.data())) << option;
  }
}

TEST(SecurityOptionsTest, ListenersThatOthersReachNeedAFlag) {
  for (const char* far : {"0.0.0.0", "*", "", "[::]", "10.1.2.3", "128.0.0.1", "126.255.255.255",
                          "[::2]", "[::ffff:10.0.0.1]", "[fe80::1]", "255.255.255.255"}) {
    for (const Args& args : {Args{"-o", "y:" + std::string(far) + ":80"},
                             Args{"-c", "tcp-listen:" + std::string(far) + ":80:1"}}) {
      EXPECT_NE(fault(args).find("start with --allow-remote"), std::string::npos) << far;
      Args allowed = args;
      allowed.push_back("--allow-remote");
      EXPECT_TRUE(parse_ok(allowed).listen.allow_remote);
    }
  }
  for (const char* near :
       {"127.0.0.1", "127.255.255.254", "[::1]", "[::ffff:127.0.0.1]", "localhost", "some.name"}) {
    parse_ok({"-o", "y:" + std::string(near) + ":80"});
  }
  // Only listeners are meant.
  parse_ok({"-i", "y:10.1.2.3:80", "-c", "tcp-connect:10.1.2.3:80:1"});
}

TEST(AclTest, UnixClientsByUserOrGroup) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  EXPECT_TRUE(Acl{}.admits(pair[0], peer_identity_of(pair[0])));
  EXPECT_TRUE((Acl{{geteuid()}, {}, {}}.admits(pair[0], peer_identity_of(pair[0]))));
  EXPECT_TRUE((Acl{{}, {getegid()}, {}}.admits(pair[0], peer_identity_of(pair[0]))));
  EXPECT_TRUE((Acl{{geteuid() + 1}, {getegid()}, {}}.admits(pair[0], peer_identity_of(pair[0]))));
  EXPECT_FALSE((Acl{{geteuid() + 1}, {}, {}}.admits(pair[0], peer_identity_of(pair[0]))));
  EXPECT_FALSE(
      (Acl{{geteuid() + 1}, {getegid() + 77777}, {}}.admits(pair[0], peer_identity_of(pair[0]))));
  for (const int fd : pair) close(fd);
}

TEST(AclTest, WhoCannotBeToldIsRefused) {
  int pair[2];
  ASSERT_EQ(pipe(pair), 0);
  EXPECT_TRUE(Acl{}.admits(pair[0], peer_identity_of(pair[0])));
  EXPECT_FALSE((Acl{{geteuid()}, {}, {}}.admits(pair[0], peer_identity_of(pair[0]))));
  EXPECT_FALSE((Acl{{}, {}, {3}}.admits(pair[0], peer_identity_of(pair[0]))));
  for (const int fd : pair) close(fd);
}

}  // namespace
}  // namespace virtproxy
