// What the subcommands' options have in common.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>
#include <vector>

namespace virtproxy::bench {

[[noreturn]] void reject(const std::string& text);
void require(bool condition, const std::string& text);

// A size with K, M or G becomes a number of bytes.
CLI::Validator as_size();
// A time with ms, s or m becomes seconds.
CLI::Validator as_seconds();
// "5%" or "0.05" becomes a share.
CLI::Validator as_share();

// The keys, for people.
template <typename Value>
std::string names_of(const std::map<std::string, Value>& names) {
  std::string text;
  for (const auto& [name, value] : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

void check_cpus(const std::vector<int>& cpus);

}  // namespace virtproxy::bench
