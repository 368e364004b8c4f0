#include "uring/base/units.h"

#include <charconv>
#include <system_error>

namespace virtproxy {

std::string format_size(uint64_t bytes) {
  static constexpr char kUnits[] = {'K', 'M', 'G', 'T'};
  std::string unit;
  for (const char next : kUnits) {
    if (bytes < 1024 || bytes % 1024 != 0) break;
    bytes /= 1024;
    unit = next;
  }
  return std::to_string(bytes) + unit;
}

std::string format_seconds(double seconds) {
  char text[32];
  const auto [end, error] = std::to_chars(text, text + sizeof(text), seconds);
  return error == std::errc() ? std::string(text, end) : std::string("?");
}

}  // namespace virtproxy
