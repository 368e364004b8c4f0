#include "log.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace oldpeer {

void Say(const std::string& line) {
  const std::string text = line + "\n";
  [[maybe_unused]] const ssize_t ignored = write(STDERR_FILENO, text.data(), text.size());
}

std::string WithErrno(const std::string& what) { return what + ": " + std::strerror(errno); }

}  // namespace oldpeer
