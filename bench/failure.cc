#include "failure.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

namespace virtproxy::bench {

Failure file_failure(const char* what, const std::string& path) {
  return {Outcome::kUsage, fmt::format("cannot {} {}: {}", what, path, std::strerror(errno))};
}

}  // namespace virtproxy::bench
