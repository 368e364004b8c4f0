#include "uring/daemon/landlock.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/unit/temporary_folder.h"
#include "uring/daemon/landlock_abi.h"
#include "uring/daemon/options.h"

namespace virtproxy {
namespace {

using namespace landlock;

constexpr int kNewestAbi = 9;

Options confinement_of(const std::vector<std::string>& args) {
  std::vector<const char*> argv{"virtproxy"};
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  argv.push_back(nullptr);
  auto parsed = parse_options(static_cast<int>(argv.size()) - 1, argv.data());
  if (parsed) return *std::move(parsed);
  ADD_FAILURE() << parsed.error().text;
  return {};
}

// 0 where there is no rule.
uint64_t allowed(const LandlockRules& rules, const std::string& path) {
  for (const LandlockRules::Path& rule : rules.paths) {
    if (rule.path == path) return rule.allowed;
  }
  return 0;
}

class LandlockRulesTest : public testing::Test {
 protected:
  const TemporaryFolder folder_;
  const std::string directory_ = folder_.path();
};

TEST_F(LandlockRulesTest, RightsAreThoseThatTheVersionKnows) {
  const Options options = confinement_of({"-c", "tcp-connect:127.0.0.1:80"});
  struct Expected {
    int abi;
    uint64_t files, net, scoped;
  };
  constexpr uint64_t kNet = kBindTcp | kConnectTcp;
  constexpr uint64_t kScopes = kScopeAbstractUnix | kScopeSignal;
  for (const Expected& one : {Expected{1, 0x1fff, 0, 0}, Expected{2, 0x3fff, 0, 0},
                              Expected{3, 0x7fff, 0, 0}, Expected{4, 0x7fff, kNet, 0},
                              Expected{5, 0xffff, kNet, 0}, Expected{6, 0xffff, kNet, kScopes},
                              Expected{7, 0xffff, kNet, kScopes},
                              Expected{8, 0xffff, kNet, kScopes},
                              Expected{9, 0x1ffff, kNet, kScopes}}) {
    const LandlockRules rules = landlock_rules(options, one.abi);
    EXPECT_EQ(rules.handled_files, one.files) << one.abi;
    EXPECT_EQ(rules.handled_net, one.net) << one.abi;
    EXPECT_EQ(rules.scoped, one.scoped) << one.abi;
    EXPECT_EQ(rules.ports.empty(), one.net == 0) << one.abi;
    EXPECT_TRUE(rules.paths.empty()) << one.abi;
  }
}

TEST_F(LandlockRulesTest, NoRuleHasARightThatIsNotHandled) {
  const std::string path = directory_ + "/s";
  const Options options =
      confinement_of({"-c", "virtio-serial:/dev/virtio-ports/x:-", "-o", "a:" + path + ":-", "-i",
                      "b:" + path + ":-", "-i", "c:somewhere.test:80"});
  for (int abi = 1; abi <= kNewestAbi; ++abi) {
    for (const LandlockRules::Path& rule : landlock_rules(options, abi).paths) {
      EXPECT_NE(rule.allowed, 0u) << rule.path;
      EXPECT_EQ(rule.allowed & ~landlock_rules(options, abi).handled_files, 0u) << rule.path;
    }
  }
}

TEST_F(LandlockRulesTest, PortsAreThoseThatAreDialled) {
  const LandlockRules rules = landlock_rules(
      confinement_of({"-c", "tcp-connect:127.0.0.1:9000", "-o", "a:127.0.0.1:7000", "-i",
                      "b:127.0.0.1:8000", "-i", "c:[::1]:8000", "-i", "d:127.0.0.1:22"}),
      kNewestAbi);
  EXPECT_EQ(rules.ports, (std::vector<uint16_t>{22, 8000, 9000}));
  EXPECT_TRUE(rules.paths.empty());
}

TEST_F(LandlockRulesTest, NamesTakeTheFilesOfTheResolverAndItsPort) {
  const LandlockRules rules =
      landlock_rules(confinement_of({"-c", "tcp-connect:somewhere.test:9000"}), kNewestAbi);
  EXPECT_EQ(rules.ports, (std::vector<uint16_t>{53, 9000}));
  EXPECT_EQ(allowed(rules, "/etc"), kReadFile);
  EXPECT_EQ(allowed(rules, "/dev/urandom"), kReadFile);
  EXPECT_EQ(allowed(rules, "/"), 0u);
}

TEST_F(LandlockRulesTest, ListenersTakeRemovalInTheirDirectories) {
  const LandlockRules rules = landlock_rules(
      confinement_of({"-c", "unix-listen:" + directory_ + "/c:-", "-o", "a:" + directory_ + "/d:-",
                      "-o", "b:@abstract:-", "-o", "c:127.0.0.1:80"}),
      kNewestAbi);
  EXPECT_EQ(rules.paths, (std::vector<LandlockRules::Path>{{directory_, kRemoveFile}}));
  EXPECT_TRUE(rules.ports.empty());
  EXPECT_EQ(rules.scoped, kScopeAbstractUnix | kScopeSignal);
}

TEST_F(LandlockRulesTest, ServicesOnUnixSocketsAreConnectedToBesideTheirPaths) {
  const LandlockRules rules = landlock_rules(
      confinement_of({"-c", "unix-connect:" + directory_ + "/not/there/yet:-"}), kNewestAbi);
  EXPECT_EQ(rules.paths, (std::vector<LandlockRules::Path>{{directory_, kResolveUnix}}));
  EXPECT_TRUE(landlock_rules(confinement_of({"-c", "unix-connect:" + directory_ + "/s:-"}), 8)
                  .paths.empty());
}

TEST_F(LandlockRulesTest, AbstractSocketsAreOpenOnlyWhereOneIsDialled) {
  const LandlockRules rules =
      landlock_rules(confinement_of({"-c", "unix-connect:@channel:-"}), kNewestAbi);
  EXPECT_EQ(rules.scoped, kScopeSignal);
  EXPECT_TRUE(rules.paths.empty());
}

TEST_F(LandlockRulesTest, DevicesTakeTheDirectoryOfDevices) {
  constexpr uint64_t kUse = kReadFile | kWriteFile | kIoctlDev;
  const auto rules_for = [&](const std::string& path) {
    return landlock_rules(confinement_of({"-c", "isa-serial:" + path + ":-"}), kNewestAbi).paths;
  };
  using Paths = std::vector<LandlockRules::Path>;
  EXPECT_EQ(rules_for("/dev/null"), (Paths{{"/dev", kUse}}));
  EXPECT_EQ(rules_for("/dev/virtio-ports/not-there"), (Paths{{"/dev", kUse}}));
  // A link, as long as it leads to something and when it leads to nothing yet.
  const std::string link = directory_ + "/link";
  std::filesystem::create_symlink("/dev/null", link);
  EXPECT_EQ(rules_for(link), (Paths{{"/dev", kUse}}));
  std::filesystem::remove(link);
  std::filesystem::create_symlink("../../dev/not-there", link);
  EXPECT_EQ(rules_for(link), (Paths{{"/dev", kUse}}));
  // Elsewhere: where it is, and where it may come as a link to.
  EXPECT_EQ(rules_for(directory_ + "/port"), (Paths{{"/dev", kUse}, {directory_, kUse}}));
}

TEST_F(LandlockRulesTest, WhatAnOlderKernelLeavesOutIsNamed) {
  EXPECT_NE(landlock_gap(2).what.find("TCP ports (6.7)"), std::string::npos);
  EXPECT_TRUE(landlock_gap(2).wide);
  EXPECT_EQ(landlock_gap(7).what, "unix sockets by their path (7.1)");
  EXPECT_FALSE(landlock_gap(7).wide);
  EXPECT_EQ(landlock_gap(kNewestAbi).what, "");
}

}  // namespace
}  // namespace virtproxy
