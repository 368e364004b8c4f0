#include "uring/agent/drop_in.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <vector>

#include "uring/base/text.h"

namespace virtproxy::agent {
namespace {

// What one name of `allow` needs beside the unit's default. The default lets the agent read what is
// readable to all, and nothing below the home directories.
struct Need {
  std::string_view name;
  std::vector<std::string_view> capabilities;
  std::vector<std::string_view> lines;
};

const std::vector<Need>& needs() {
  static const std::vector<Need> all{
      // Of the system calls, @system-service has neither syslog(2) nor those that set the clock.
      {"dmesg", {"CAP_SYSLOG"}, {"SystemCallFilter=syslog"}},
      {"set-time",
       {"CAP_SYS_TIME"},
       {"ProtectClock=no", "SystemCallFilter=@clock", "DeviceAllow=char-rtc rw"}},
      // FIFREEZE and FITRIM are asked of the mount points, which may be below directories that are
      // closed to others.
      {"fsfreeze", {"CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"}, {"ProtectHome=read-only"}},
      {"fstrim", {"CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"}, {"ProtectHome=read-only"}},
      // shutdown(8) asks the service manager, which does as root tells it.
      {"shutdown", {}, {"DynamicUser=no", "User=root"}},
  };
  return all;
}

// A path as systemd takes it in a list: it splits at spaces, and a percent sign is special.
tl::expected<std::string, std::string> path_word(const std::string& path) {
  std::string word = "\"";
  for (const char c : path) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      return tl::unexpected("a directory with control characters has no place in a unit: " +
                            printable(path));
    }
    if (c == '"' || c == '\\') word += '\\';
    if (c == '%') word += '%';
    word += c;
  }
  return word + '"';
}

}  // namespace

tl::expected<std::string, std::string> drop_in(const Rules& rules) {
  std::set<std::string_view> capabilities;
  std::vector<std::string> lines;
  const auto add = [&lines](std::string line) {
    if (std::find(lines.begin(), lines.end(), line) == lines.end()) {
      lines.push_back(std::move(line));
    }
  };
  std::vector<std::string_view> allowed;
  for (const Need& need : needs()) {
    if (!rules.permissions.named.contains(need.name)) continue;
    allowed.push_back(need.name);
    capabilities.insert(need.capabilities.begin(), need.capabilities.end());
    for (const std::string_view line : need.lines) add(std::string(line));
  }
  // The default hides home directories. /tmp stays a private one, which a dynamic user implies.
  if (rules.permissions.read || rules.permissions.write) add("ProtectHome=read-only");
  for (const std::string& directory : rules.write) {
    const auto word = path_word(directory);
    if (!word) return tl::unexpected(word.error());
    add("ReadWritePaths=" + *word);
  }
  std::string text = fmt::format(
      "# For virtagent.service.d/, made by `virtagent drop-in`. Allowed: {}{}{}{}.\n[Service]\n",
      allowed.empty() ? "no name" : fmt::format("{}", fmt::join(allowed, ", ")),
      rules.permissions.read ? ", files to read" : "",
      rules.permissions.write ? ", files to write" : "", rules.permissions.hooks ? ", hooks" : "");
  if (!capabilities.empty()) {
    const std::string list = fmt::format("{}", fmt::join(capabilities, " "));
    text += "CapabilityBoundingSet=" + list + "\nAmbientCapabilities=" + list + "\n";
  }
  for (const std::string& line : lines) text += line + "\n";
  if (rules.permissions.read || rules.permissions.write) {
    text +=
        "# The agent reads and writes files as its user. Give it one of their groups with\n"
        "# SupplementaryGroups=, or AmbientCapabilities=CAP_DAC_READ_SEARCH to read all files or\n"
        "# CAP_DAC_OVERRIDE to read and write them.\n";
  }
  if (rules.permissions.hooks) {
    text += "# Hooks run as the agent's user with the same limits. Add what yours need.\n";
  }
  return text;
}

}  // namespace virtproxy::agent
