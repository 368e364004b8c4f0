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
  std::vector<std::string_view> names;
  for (const CLI::Option* option : asked.get_options()) {
    names.insert(names.end(), option->get_lnames().begin(), option->get_lnames().end());
  }
  return extra_fault(extra) + nearest_option(extra, names);
}

}  // namespace virtproxy
