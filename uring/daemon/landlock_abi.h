// The kernel's interface of Landlock, as far as it is used. Debian 12's headers stop at ABI 3 (Linux
// 6.2), so that everything is defined here, with the ABI that brought it.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

namespace virtproxy::landlock {

// On files and directories, and below a directory. ABI 1 (Linux 5.13).
inline constexpr uint64_t kExecute = uint64_t{1} << 0;
inline constexpr uint64_t kWriteFile = uint64_t{1} << 1;
inline constexpr uint64_t kReadFile = uint64_t{1} << 2;
inline constexpr uint64_t kReadDir = uint64_t{1} << 3;
inline constexpr uint64_t kRemoveFile = uint64_t{1} << 5;
inline constexpr uint64_t kMakeReg = uint64_t{1} << 8;
inline constexpr uint64_t kMakeSock = uint64_t{1} << 9;
// These and listing, removing and making directories, and making files of each kind.
inline constexpr uint64_t kAllOfFirst = (uint64_t{1} << 13) - 1;
inline constexpr uint64_t kRefer = uint64_t{1} << 13;        // ABI 2 (5.19)
inline constexpr uint64_t kTruncate = uint64_t{1} << 14;     // ABI 3 (6.2)
inline constexpr uint64_t kIoctlDev = uint64_t{1} << 15;     // ABI 5 (6.10)
inline constexpr uint64_t kResolveUnix = uint64_t{1} << 16;  // ABI 9 (7.1)

// On TCP ports. ABI 4 (6.7).
inline constexpr uint64_t kBindTcp = uint64_t{1} << 0;
inline constexpr uint64_t kConnectTcp = uint64_t{1} << 1;

// Towards processes that are not under the same rules. ABI 6 (6.12).
inline constexpr uint64_t kScopeAbstractUnix = uint64_t{1} << 0;
inline constexpr uint64_t kScopeSignal = uint64_t{1} << 1;

struct RulesetAttributes {
  uint64_t handled_files = 0;
  uint64_t handled_net = 0;
  uint64_t scoped = 0;
};
struct __attribute__((packed)) PathBeneath {
  uint64_t allowed = 0;
  int32_t parent = -1;
};
struct NetPort {
  uint64_t allowed = 0;
  uint64_t port = 0;
};

inline constexpr unsigned kVersionQuery = 1;
inline constexpr int kRulePathBeneath = 1;
inline constexpr int kRuleNetPort = 2;

inline int create_ruleset(const RulesetAttributes* attributes, size_t size, unsigned flags) {
  return static_cast<int>(syscall(__NR_landlock_create_ruleset, attributes, size, flags));
}
inline int add_rule(int ruleset, int kind, const void* rule) {
  return static_cast<int>(syscall(__NR_landlock_add_rule, ruleset, kind, rule, 0));
}
inline int restrict_self(int ruleset) {
  return static_cast<int>(syscall(__NR_landlock_restrict_self, ruleset, 0));
}

}  // namespace virtproxy::landlock
