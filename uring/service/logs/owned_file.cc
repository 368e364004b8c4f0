#include "uring/service/logs/owned_file.h"

#include <fcntl.h>
#include <sys/fsuid.h>

#include <cerrno>

namespace virtproxy::logs {

UniqueFd open_for(const std::optional<FileOwner>& owner, const std::string& path, int flags,
                  mode_t mode, MadeFiles& made) {
  if (owner) {
    // Neither of them reports a failure: then the rights are those of the process, as before.
    const int group = setfsgid(owner->group);
    const int user = setfsuid(owner->user);
    UniqueFd file = made.open(path, flags, mode);
    const int error = errno;
    setfsuid(static_cast<uid_t>(user));
    setfsgid(static_cast<gid_t>(group));
    errno = error;
    if (file || (error != EACCES && error != EPERM)) return file;
  }
  return made.open(path, flags, mode);
}

}  // namespace virtproxy::logs
