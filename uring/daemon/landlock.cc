#include "uring/daemon/landlock.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "uring/base/log.h"
#include "uring/base/text.h"
#include "uring/base/unique_fd.h"
#include "uring/daemon/landlock_abi.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

namespace fs = std::filesystem;
using namespace landlock;

constexpr int kAbiOfTcp = 4;
constexpr int kAbiOfDevices = 5;
constexpr int kAbiOfScopes = 6;
constexpr int kAbiOfUnix = 9;
constexpr uint16_t kNameServerPort = 53;

std::vector<const Address*> connected_to(const Options& options) {
  std::vector<const Address*> all;
  for (const ChannelSpec& channel : options.channels) {
    if (!transport_listens(channel.transport)) all.push_back(&channel.address);
  }
  for (const ForwardSpec& forward : options.iforwards) all.push_back(&forward.address);
  for (const SinkSpec& sink : options.process.collect) {
    if (sink.connects()) all.push_back(&sink.address);
  }
  return all;
}

std::vector<const Address*> bound(const Options& options) {
  std::vector<const Address*> all;
  for (const ChannelSpec& channel : options.channels) {
    if (transport_listens(channel.transport)) all.push_back(&channel.address);
  }
  for (const ForwardSpec& forward : options.oforwards) all.push_back(&forward.address);
  for (const auto* address : {&options.process.control, &options.process.metrics}) {
    if (*address) all.push_back(&**address);
  }
  for (const logs::SourceSpec& source : options.process.ship_sources) {
    if (!source.address.host.empty()) all.push_back(&source.address);
  }
  return all;
}

bool is_abstract(const Address& address) { return address.host.starts_with('@'); }

fs::path absolute(const std::string& path) {
  std::error_code error;
  const fs::path found = fs::absolute(path, error);
  return error ? fs::path(path) : found.lexically_normal();
}

// Where all links of the path lead, as far as it exists; the last link may lead to nothing yet.
fs::path resolved(fs::path path) {
  constexpr int kMostLinks = 40;
  std::error_code error;
  for (int links = 0; links < kMostLinks && fs::is_symlink(path, error); ++links) {
    const fs::path target = fs::read_symlink(path, error);
    if (error) break;
    path = (path.parent_path() / target).lexically_normal();
  }
  const fs::path found = fs::weakly_canonical(path, error);
  return error ? path : found;
}

bool is_below(const fs::path& path, const fs::path& directory) {
  return std::mismatch(directory.begin(), directory.end(), path.begin(), path.end()).first ==
         directory.end();
}

class Collector {
 public:
  explicit Collector(LandlockRules& rules) : rules_(rules) {}

  void allow(const fs::path& path, uint64_t rights) {
    rights &= rules_.handled_files;
    if (rights == 0) return;
    for (LandlockRules::Path& known : rules_.paths) {
      if (known.path != path) continue;
      known.allowed |= rights;
      return;
    }
    rules_.paths.push_back({path.string(), rights});
  }

  // In the directory that has, or will have, this file. One that does not exist yet may be made
  // under any of its ancestors; nothing less than the nearest of them would let it work then.
  void allow_beside(const fs::path& file, uint64_t rights) {
    std::error_code error;
    fs::path directory = file.parent_path();
    while (directory.has_relative_path() && !fs::is_directory(directory, error)) {
      directory = directory.parent_path();
    }
    allow(directory, rights);
  }

 private:
  LandlockRules& rules_;
};

void allow_device(Collector& collector, const Address& address) {
  constexpr uint64_t kUse = kReadFile | kWriteFile | kIoctlDev;
  const fs::path real = resolved(absolute(address.host));
  std::error_code error;
  // What does not exist yet may come as a link to /dev.
  const bool missing = !fs::exists(real, error);
  if (missing || is_below(real, "/dev")) collector.allow("/dev", kUse);
  if (!is_below(real, "/dev")) collector.allow_beside(real, kUse);
}

void allow_names(Collector& collector) {
  for (const char* const file : {"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"}) {
    collector.allow("/etc", kReadFile);
    const fs::path real = resolved(file);
    if (!is_below(real, "/etc")) collector.allow_beside(real, kReadFile);
  }
  // c-ares takes the numbers of its questions from there.
  collector.allow("/dev/urandom", kReadFile);
}

// Files may be replaced, so rules for single ones would end with the first change.
void allow_configuration(Collector& collector, const Options& options) {
  collector.allow("/etc", kReadFile);  // names of users, groups and services
  if (options.config.empty()) return;
  for (const fs::path& file : {absolute(options.config), resolved(absolute(options.config))}) {
    collector.allow_beside(file, kReadFile | kReadDir);
  }
}

void allow_unix(Collector& collector, const Address& address) {
  if (is_abstract(address)) return;
  const fs::path given = absolute(address.host);
  collector.allow_beside(given, kResolveUnix);
  collector.allow_beside(resolved(given), kResolveUnix);
}

std::string reason(const char* what) { return std::string(what) + ": " + std::strerror(errno); }

}  // namespace

tl::expected<int, std::string> landlock_abi() {
  const int abi = create_ruleset(nullptr, 0, kVersionQuery);
  if (abi > 0) return abi;
  switch (errno) {
    case ENOSYS:
      return tl::unexpected<std::string>("this kernel has no Landlock (Linux 5.13 or later)");
    case EOPNOTSUPP:
      return tl::unexpected<std::string>(
          "Landlock is switched off: add landlock to lsm= of the kernel's command line");
    case EPERM:
    case EACCES:
      return tl::unexpected<std::string>(
          "Landlock is forbidden here: allow landlock_create_ruleset in the container's profile");
    default:
      return tl::unexpected(reason("Landlock"));
  }
}

LandlockRules landlock_rules(const Options& options, int abi) {
  LandlockRules rules;
  rules.abi = abi;
  rules.handled_files = kAllOfFirst;
  if (abi >= 2) rules.handled_files |= kRefer;
  if (abi >= 3) rules.handled_files |= kTruncate;
  if (abi >= kAbiOfDevices) rules.handled_files |= kIoctlDev;
  if (abi >= kAbiOfUnix) rules.handled_files |= kResolveUnix;
  // Which ports a changed configuration listens on is not known.
  if (abi >= kAbiOfTcp) rules.handled_net = kConnectTcp | (options.can_change() ? 0 : kBindTcp);
  if (abi >= kAbiOfScopes) rules.scoped = kScopeAbstractUnix | kScopeSignal;

  Collector collector(rules);
  bool names = false;
  for (const Address* address : connected_to(options)) {
    switch (address->kind) {
      case Address::Kind::kTcp:
        names |= address->needs_resolver();
        rules.ports.push_back(static_cast<uint16_t>(address->port));
        break;
      case Address::Kind::kUnix:
        if (is_abstract(*address)) rules.scoped &= ~kScopeAbstractUnix;
        allow_unix(collector, *address);
        break;
      case Address::Kind::kDevice:
        allow_device(collector, *address);
        break;
      case Address::Kind::kVsock:
        break;
    }
  }
  for (const Address* address : bound(options)) {
    if (address->kind != Address::Kind::kUnix || is_abstract(*address)) continue;
    collector.allow_beside(absolute(address->host),
                           kRemoveFile | (options.can_change() ? kMakeSock : 0));
  }
  if (options.can_change()) allow_configuration(collector, options);
  // Renamed and made anew in its directory.
  for (const SinkSpec& sink : options.process.collect) {
    if (!sink.rotates()) continue;
    collector.allow_beside(absolute(sink.target), kRemoveFile | kMakeReg | kWriteFile);
  }
  if (names) {
    allow_names(collector);
    rules.ports.push_back(kNameServerPort);
  }
  std::sort(rules.ports.begin(), rules.ports.end());
  rules.ports.erase(std::unique(rules.ports.begin(), rules.ports.end()), rules.ports.end());
  if (rules.handled_net == 0) rules.ports.clear();
  return rules;
}

std::string lacks(const LandlockRules& rules, const Options& needed) {
  const LandlockRules wanted = landlock_rules(needed, rules.abi);
  for (const uint16_t port : wanted.ports) {
    if (!std::binary_search(rules.ports.begin(), rules.ports.end(), port)) {
      return "connections to TCP port " + std::to_string(port);
    }
  }
  if ((rules.scoped & ~wanted.scoped & kScopeAbstractUnix) != 0) {
    return "abstract unix sockets of other processes";
  }
  for (const LandlockRules::Path& path : wanted.paths) {
    uint64_t allowed = 0;
    for (const LandlockRules::Path& rule : rules.paths) {
      if (is_below(path.path, rule.path)) allowed |= rule.allowed;
    }
    if ((path.allowed & ~allowed) != 0) return "files in " + printable(path.path);
  }
  return {};
}

LandlockGap landlock_gap(int abi) {
  struct Step {
    int abi;
    const char* what;
  };
  constexpr Step kSteps[] = {
      {3, "truncation (Linux 6.2)"},
      {kAbiOfTcp, "TCP ports (6.7)"},
      {kAbiOfDevices, "requests to devices (6.10)"},
      {kAbiOfScopes, "abstract unix sockets and signals (6.12)"},
      {kAbiOfUnix, "unix sockets by their path (7.1)"},
  };
  LandlockGap gap;
  for (const Step& step : kSteps) {
    if (abi < step.abi) gap.what += (gap.what.empty() ? "" : ", ") + std::string(step.what);
  }
  gap.wide = abi < kAbiOfScopes;
  return gap;
}

tl::expected<void, std::string> apply_landlock(const LandlockRules& rules) {
  const RulesetAttributes attributes{rules.handled_files, rules.handled_net, rules.scoped};
  // As much of it as the kernel may know: older ones refuse a longer structure only if it says
  // something there.
  const UniqueFd ruleset(create_ruleset(&attributes, sizeof attributes, 0));
  if (ruleset.get() < 0) return tl::unexpected(reason("landlock_create_ruleset"));
  for (const LandlockRules::Path& rule : rules.paths) {
    const UniqueFd parent(open(rule.path.c_str(), O_PATH | O_CLOEXEC));
    if (parent.get() < 0) {
      // Nothing there can be opened later by this user either.
      log_debug("no rule for {}: {}", printable(rule.path), std::strerror(errno));
      continue;
    }
    const PathBeneath beneath{rule.allowed, parent.get()};
    if (add_rule(ruleset.get(), kRulePathBeneath, &beneath) != 0) {
      return tl::unexpected(reason(("a rule for " + printable(rule.path)).c_str()));
    }
  }
  for (const uint16_t port : rules.ports) {
    const NetPort net{kConnectTcp, port};
    if (add_rule(ruleset.get(), kRuleNetPort, &net) != 0) {
      return tl::unexpected(reason("a rule for a TCP port"));
    }
  }
  if (restrict_self(ruleset.get()) != 0) return tl::unexpected(reason("landlock_restrict_self"));
  return {};
}

}  // namespace virtproxy
