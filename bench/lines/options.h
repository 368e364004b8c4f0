#pragma once

#include <string>
#include <vector>

#include "lines/plan.h"

namespace CLI {
class App;
}

namespace virtproxy::bench::lines {

// What CLI11 fills in before it is checked and translated.
struct RawLines {
  std::string connect;
  std::string sink;
  uint64_t size = 200;
  uint64_t writers = 1;
  std::string content = "text";
  std::string header = "none";
  std::string framing = "lf";
  std::string sink_framing;
  uint64_t run = 0;
  bool tolerate = false;
  LinesPlan plan;
};

void add_lines_options(CLI::App& app, RawLines& raw);
// Throws Failure(kUsage) with one line.
LinesPlan make_lines_plan(RawLines& raw, const CLI::App& app);

}  // namespace virtproxy::bench::lines
