// A configuration as a tree of named values, each with the place where it stands in a file.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

namespace virtproxy {

// Where something was given. Without a file it was on the command line.
struct Origin {
  std::string file;     // as it is shown
  unsigned line = 0;    // from 1; 0: the file as a whole
  unsigned column = 0;  // from 1, in characters

  bool in_file() const { return !file.empty(); }
};

// One thing that is wrong with a configuration.
struct Problem {
  Origin origin;
  std::string what;
  std::string right;

  // One line, without its end: `file:line:column: what; right`, or `what: right` of the command
  // line.
  std::string to_string() const;
};

struct ConfigNode {
  enum class Type { kTable, kArray, kString, kInteger, kFloat, kBoolean, kDate };

  Type type = Type::kTable;
  std::string key;   // in its table; empty in an array
  Origin key_at;     // where the key stands
  Origin at;         // where the value stands
  std::string text;  // of a value that is neither table nor array, as an option would be given
  std::vector<ConfigNode> items;  // of a table in the order of the file, of an array

  const ConfigNode* find(std::string_view name) const;
};

// A file that was read.
struct ConfigText {
  std::string name;  // as messages show it
  std::string text;
};

// Most bytes of a file.
inline constexpr size_t kMaxConfigFile = size_t{1} << 20;
// Most files that are read together.
inline constexpr size_t kMaxConfigFiles = 256;
// Most values inside each other. A configuration has tables that are four deep:
// channel.NAME.listen.SERVICE.
inline constexpr size_t kMaxConfigDepth = 16;

// Reads TOML 1.0. Nothing throws. A file that is not TOML has one problem, where reading ended.
tl::expected<ConfigNode, Problem> parse_toml(const ConfigText& file);

// Adds what is in `later` to `tree`: tables are united, any other value takes the place of the
// earlier one.
void merge(ConfigNode& tree, ConfigNode later);

}  // namespace virtproxy
