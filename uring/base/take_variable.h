// What the service manager tells this process in its environment.
#pragma once

#include <cstdlib>
#include <optional>
#include <string>

namespace virtproxy {

// The value of a variable, which is removed: programs that this process or a library starts must
// not act on it. Nothing if it is not set.
inline std::optional<std::string> take_variable(const char* name) {
  const char* const value = std::getenv(name);
  if (value == nullptr) return std::nullopt;
  std::string copy = value;
  unsetenv(name);
  return copy;
}

}  // namespace virtproxy
