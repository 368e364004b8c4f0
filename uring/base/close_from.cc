#include "uring/base/close_from.h"

#include <dirent.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>

namespace virtproxy {

void close_from(int lowest) {
  if (syscall(SYS_close_range, static_cast<unsigned>(lowest), ~0u, 0) == 0) return;
  // Before Linux 5.9, or where a container's filter does not know the call. A name is a number, but
  // for two.
  if (DIR* const open = opendir("/proc/self/fd")) {
    while (const dirent* const entry = readdir(open)) {
      const int fd = std::atoi(entry->d_name);
      if (fd >= lowest && fd != dirfd(open)) close(fd);
    }
    closedir(open);
    return;
  }
  const long end = sysconf(_SC_OPEN_MAX);
  for (int fd = lowest; fd < end; ++fd) close(fd);
}

}  // namespace virtproxy
