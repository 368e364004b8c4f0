#include "uring/base/read_append.h"

#include <unistd.h>

#include <algorithm>
#include <memory>

namespace virtproxy {

ssize_t read_append(int fd, std::string& text, size_t most) {
  static thread_local const auto buffer = std::make_unique_for_overwrite<char[]>(kMostReadAppend);
  const ssize_t size = read(fd, buffer.get(), std::min(most, kMostReadAppend));
  if (size > 0) text.append(buffer.get(), static_cast<size_t>(size));
  return size;
}

}  // namespace virtproxy
