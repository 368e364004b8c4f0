// The command line as text: which options were given, and with what. CLI11 is known to its
// implementation alone.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

namespace virtproxy {

struct CommandLine {
  // By the name of the row; in the order given.
  std::map<std::string_view, std::vector<std::string>> values;
  // Flags, with how often each was given.
  std::map<std::string_view, unsigned> flags;

  const std::vector<std::string>* find(std::string_view name) const {
    const auto found = values.find(name);
    return found == values.end() ? nullptr : &found->second;
  }
  unsigned count(std::string_view name) const {
    const auto found = flags.find(name);
    return found == flags.end() ? 0 : found->second;
  }
};

// The error is the rest of one line.
tl::expected<CommandLine, std::string> parse_command_line(int argc, const char* const* argv);

}  // namespace virtproxy
