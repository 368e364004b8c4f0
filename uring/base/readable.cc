#include "uring/base/readable.h"

#include <cstdio>
#include <string_view>

namespace virtproxy {

std::string readable_bytes(uint64_t bytes) {
  if (bytes < 1024) return std::to_string(bytes);
  auto value = static_cast<double>(bytes);
  std::string_view units = "KMGTPE";
  do {
    value /= 1024;
    if (value < 999.5 || units.size() == 1) break;
    units.remove_prefix(1);
  } while (true);
  char text[32];
  std::snprintf(text, sizeof text, value < 99.95 ? "%.1f%c" : "%.0f%c", value, units.front());
  return text;
}

std::string readable_time(uint64_t milliseconds) {
  const auto two = [](uint64_t larger, const char* unit, uint64_t smaller, const char* small_unit) {
    return std::to_string(larger) + unit + (smaller < 10 ? "0" : "") + std::to_string(smaller) +
           small_unit;
  };
  if (milliseconds < 1000) return std::to_string(milliseconds) + "ms";
  const uint64_t seconds = milliseconds / 1000;
  if (seconds < 60) {
    return std::to_string(seconds) + "." + std::to_string(milliseconds % 1000 / 100) + "s";
  }
  if (seconds < 3600) return two(seconds / 60, "m", seconds % 60, "s");
  const uint64_t hours = seconds / 3600;
  if (hours < 24) return two(hours, "h", seconds % 3600 / 60, "m");
  return two(hours / 24, "d", hours % 24, "h");
}

}  // namespace virtproxy
