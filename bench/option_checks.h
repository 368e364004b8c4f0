// What the subcommands' options have in common.
#pragma once

#include <CLI/CLI.hpp>
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

void check_cpus(const std::vector<int>& cpus);

}  // namespace virtproxy::bench
