#pragma once

#include <string>
#include <variant>
#include <vector>

#include "compare.h"
#include "lines/plan.h"
#include "plan.h"

namespace virtproxy::bench {

struct ServeOptions {
  std::vector<Address> listen;
  SocketOptions sockets;
  bool http_connect = false;
  double duration = 0;
  std::vector<int> cpus;
};

// Text for standard output, after which the program ends well.
struct HelpText {
  std::string text;
};

using Options = std::variant<Plan, lines::LinesPlan, ServeOptions, CompareOptions, HelpText>;

// Throws Failure(kUsage) with one line.
Options parse_options(int argc, char** argv);

}  // namespace virtproxy::bench
