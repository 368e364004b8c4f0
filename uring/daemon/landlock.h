// The files and TCP ports that the running daemon does not need are refused by the kernel (Landlock).
// Seccomp sees numbers only: it allows an open or a connect for all paths and ports or for none.
//
//   devices        opened for reading and writing below /dev, or wherever a device is that is
//                  elsewhere: a device that is unplugged comes back as another file
//   bound paths    unlinked in their directories
//   host names     files read below /etc, and where /etc/resolv.conf leads: they are replaced, not
//                  rewritten, so that a rule for the file alone would end with the first change
//   unix services  connected to in their directories, where the kernel governs that (ABI 9)
//   TCP            connected to on the ports that are dialled, and 53 for host names; none bound
//   configuration  read, with the names of users and services, where it may be read again; unix sockets
//                  made beside those that are there, and any TCP port bound
//   abstract sockets of other processes, unless one is dialled; signals to other processes
//
// Rules hold for the calling thread and the threads it starts afterwards, so that they are applied
// before the workers exist. What is open stays usable.
#pragma once

#include <cstdint>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "uring/daemon/options.h"

namespace virtproxy {

// What the kernel is asked for.
struct LandlockRules {
  int abi = 0;
  struct Path {
    std::string path;
    uint64_t allowed = 0;  // of landlock_abi.h
    friend bool operator==(const Path&, const Path&) = default;
  };
  uint64_t handled_files = 0;
  uint64_t handled_net = 0;
  uint64_t scoped = 0;
  std::vector<Path> paths;      // existing ones, each once
  std::vector<uint16_t> ports;  // ascending
};

// The version of Landlock in this kernel, or why there is none.
tl::expected<int, std::string> landlock_abi();

// With the rights that this version knows. Looks at the file system, for what exists.
LandlockRules landlock_rules(const Options& options, int abi);

// What `needed` would open or connect to and these rules do not allow, for people; empty if nothing.
// Looks at the file system.
std::string lacks(const LandlockRules& rules, const Options& needed);

// What newer kernels would govern as well, for the log; nothing for the newest that is known.
struct LandlockGap {
  std::string what;
  bool wide = false;  // more than what no kernel of 2025 governs
};
LandlockGap landlock_gap(int abi);

// For the calling thread and those it will start.
tl::expected<void, std::string> apply_landlock(const LandlockRules& rules);

}  // namespace virtproxy
