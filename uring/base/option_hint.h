// What a misspelt option probably means, for programs whose command line CLI11 reads.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "uring/base/text.h"

namespace virtproxy {

// "unknown option: --x: the nearest is --y", of the first word that neither the program nor the
// command that was given takes. CLI11 would name all such words, the last one first.
inline std::string extras_fault(const CLI::App& app) {
  const std::string extra = first_extra(app.remaining(true));
  const auto given = app.get_subcommands();
  const CLI::App& asked = given.empty() ? app : *given.front();
  std::vector<std::string> names;
  for (const CLI::Option* option : asked.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  const std::vector<std::string_view> known(names.begin(), names.end());
  const bool is_option = extra.starts_with("--");
  return extra_fault(extra) + (is_option ? nearest_hint(extra, known) : std::string());
}

}  // namespace virtproxy
