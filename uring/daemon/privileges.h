// Giving up what only the start needed. For good: a daemon that was taken over by a peer's bytes
// cannot get any of it back.
//
//   --user          that user and its groups, no capability, none to be had (bounding set)
//   root without    still root, which owns most devices; of its capabilities only CAP_IPC_LOCK, for
//                   rings, and CAP_DAC_OVERRIDE if files or sockets are opened later by their path
//   always          no new privileges; no core dump, which would hold the bytes of applications, and no
//                   debugger of the same user (dumpable)
#pragma once

#include <string>
#include <tl/expected.hpp>

#include "uring/daemon/options.h"

namespace virtproxy {

// Before anything is given up: a privileged process is not held to the limit of lockable memory.
// Rings are made afterwards, so the limit goes, where this process may do that.
void keep_lockable_memory();

// For the whole process, so before other threads start. Says what is left, for the log.
tl::expected<std::string, std::string> give_up_privileges(const Options& options);

// Afterwards: whether the devices of the channels, as far as they exist, may be opened. They are
// opened again after every loss, so that it does not help to open them before.
tl::expected<void, std::string> check_devices(const Options& options);

}  // namespace virtproxy
