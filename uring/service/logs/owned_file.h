// Files of a process that starts as root and goes on as another user.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "uring/base/made_files.h"
#include "uring/base/unique_fd.h"

namespace virtproxy::logs {

// Who goes on.
struct FileOwner {
  uid_t user;
  gid_t group;
};

// Opens a file, or makes it, by the rights of `owner`: what is made is the owner's, and is nowhere
// that the owner could not write. Changing the owner afterwards would give away what a link in a
// directory of the owner's leads to. Where the owner may not, by the rights of the process, as for
// a file that is root's from an earlier start; it stays root's. Without an owner, as open(2). errno
// of the last attempt if the result is empty. Before there are other threads.
UniqueFd open_for(const std::optional<FileOwner>& owner, const std::string& path, int flags,
                  mode_t mode, MadeFiles& made);

}  // namespace virtproxy::logs
