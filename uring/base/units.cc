#include "uring/base/units.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "uring/base/text.h"

namespace virtproxy {

tl::expected<uint64_t, std::string> parse_count(std::string_view text) {
  const char* end = text.data() + text.size();
  uint64_t value = 0;
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || stop != end || error == std::errc::invalid_argument) {
    return tl::unexpected<std::string>(in_quotes(text) + " is not a number");
  }
  return error == std::errc() ? value : UINT64_MAX;
}

tl::expected<uint64_t, std::string> parse_size(std::string_view text) {
  const std::string shown = in_quotes(text);
  const char* end = text.data() + text.size();
  uint64_t number = 0;
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  if (text.empty() || error == std::errc::invalid_argument) {
    return tl::unexpected<std::string>(shown + " is not a size such as 64M");
  }
  std::string_view unit(stop, static_cast<size_t>(end - stop));
  unsigned shift = 0;
  if (!unit.empty()) {
    const size_t index = std::string_view("KMGTkmgt").find(unit.front());
    unit.remove_prefix(1);
    if (index == std::string_view::npos || !(unit.empty() || unit == "iB")) {
      return tl::unexpected<std::string>(
          shown + " does not end in K, M, G or T (powers of 1024), as 64M does");
    }
    shift = 10 * static_cast<unsigned>(index % 4 + 1);
  }
  if (error != std::errc() || number > (UINT64_MAX >> shift)) {
    return tl::unexpected<std::string>(shown + " is too large");
  }
  return number << shift;
}

tl::expected<double, std::string> parse_seconds(std::string_view text) {
  const char* end = text.data() + text.size();
  double number = 0;
  const auto [stop, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  const std::string_view unit(stop, static_cast<size_t>(end - stop));
  const bool known = unit.empty() || unit == "s" || unit == "ms" || unit == "m";
  if (text.empty() || error != std::errc() || !known || !std::isfinite(number)) {
    return tl::unexpected<std::string>(in_quotes(text) + " is not a time such as 10, 0.5 or 500ms");
  }
  if (unit == "ms") return number / 1000.0;
  if (unit == "m") return number * 60.0;
  return number;
}

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
  // The fewest digits that mean the same number, of any but the very smallest. std::to_chars()
  // finds them as well, with tables of 110 KB.
  char text[32];
  for (int digits = 15; digits <= 17; ++digits) {
    std::snprintf(text, sizeof(text), "%.*g", digits, seconds);
    if (std::strtod(text, nullptr) == seconds) break;
  }
  return text;
}

}  // namespace virtproxy
