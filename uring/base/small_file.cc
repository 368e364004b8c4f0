#include "uring/base/small_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "uring/base/read_append.h"
#include "uring/base/unique_fd.h"

namespace virtproxy {

tl::expected<std::string, int> read_small_file(const std::string& path, size_t most) {
  // Without O_NONBLOCK, open(2) waits until a named pipe has a writer.
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd || fcntl(fd.get(), F_SETFL, O_RDONLY) != 0) return tl::unexpected(errno);
  struct stat status {};
  if (fstat(fd.get(), &status) != 0) return tl::unexpected(errno);
  if (S_ISDIR(status.st_mode)) return tl::unexpected(EISDIR);
  std::string text;
  while (text.size() <= most) {
    const ssize_t size = read_append(fd.get(), text);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return tl::unexpected(errno);
    if (size == 0) return text;
  }
  return tl::unexpected(EFBIG);
}

}  // namespace virtproxy
