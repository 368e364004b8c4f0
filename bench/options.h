#pragma once

#include <string>
#include <variant>
#include <vector>

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

// Throws Failure(kUsage) with one line.
std::variant<Plan, ServeOptions, HelpText> parse_options(int argc, char** argv);

}  // namespace virtproxy::bench
