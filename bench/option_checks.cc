#include "option_checks.h"

#include <fmt/format.h>
#include <sched.h>

#include <charconv>

#include "failure.h"
#include "uring/base/units.h"

namespace virtproxy::bench {

void reject(const std::string& text) { throw Failure(Outcome::kUsage, text); }

void require(bool condition, const std::string& text) {
  if (!condition) reject(text);
}

CLI::Validator as_size() {
  const auto convert = [](std::string& text) {
    const auto size = parse_size(text);
    if (!size) return size.error();
    text = std::to_string(*size);
    return std::string();
  };
  return {convert, "SIZE"};
}

CLI::Validator as_seconds() {
  const auto convert = [](std::string& text) {
    const auto seconds = parse_seconds(text);
    if (!seconds) return seconds.error();
    text = fmt::format("{}", *seconds);
    return std::string();
  };
  return {convert, "TIME"};
}

CLI::Validator as_share() {
  const auto convert = [](std::string& text) {
    const bool percent = text.ends_with('%');
    const char* end = text.data() + text.size() - (percent ? 1 : 0);
    double value = 0;
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || stop != end || !(value >= 0 && value <= 1000)) {
      return fmt::format("'{}' is no share: write 5% or 0.05", text);
    }
    text = fmt::format("{}", percent ? value / 100 : value);
    return std::string();
  };
  return {convert, "SHARE"};
}

void check_cpus(const std::vector<int>& cpus) {
  require(cpus.size() <= 2, "--pin takes one or two CPUs");
  for (const int cpu : cpus) {
    require(cpu >= 0 && cpu < CPU_SETSIZE, fmt::format("--pin: there is no CPU {}", cpu));
  }
}

}  // namespace virtproxy::bench
