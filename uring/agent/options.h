// The command line and the configuration file of virtagent.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "core/agent/method_table.h"
#include "uring/agent/port.h"
#include "uring/base/log.h"

namespace virtproxy::agent {

// What the operator allows. From the file and the command line together.
struct Rules {
  Permissions permissions;
  std::vector<std::string> read;  // directories
  std::vector<std::string> write;
  std::map<std::string, std::string, std::less<>> hooks;  // name to program
  uint64_t max_put = uint64_t{1} << 30;                   // bytes
  unsigned max_freeze = 60;                               // seconds
  std::string metadata;                                   // a directory, or empty
};

struct ServeOptions {
  Role role = Role::kGuest;
  std::vector<PortSpec> ports;      // the first one takes our own calls
  std::vector<std::string> listen;  // sockets of streams
  std::vector<std::string> local;   // sockets of this machine's programs
  Rules rules;
};

struct ClientOptions {
  enum class Action { kCall, kGet, kPut, kEvents };
  Action action = Action::kCall;
  PortSpec target;
  std::string method;
  Json arguments = Json::object();
  std::string remote;
  std::string file;  // "-" for standard output, and for standard input of kPut
  std::optional<uint64_t> offset;
  std::optional<uint64_t> length;
  std::optional<unsigned> mode;
  double timeout = 5;         // seconds until the answer
  double stall_timeout = 60;  // seconds without a byte, of kGet and kPut
  uint64_t count = 0;         // events, 0 for no end
};

// One of them is there.
struct Options {
  std::optional<ServeOptions> serve;
  std::optional<ClientOptions> client;
  std::optional<Rules> drop_in;  // a unit for these is asked for
  LogLevel log_level = LogLevel::kInfo;
};

struct Refusal {
  int code = 1;
  std::string text;
};

tl::expected<Options, Refusal> parse_options(int argc, char** argv);

// Adds what the text of a configuration file says. The error names its line; nothing is added then.
tl::expected<void, std::string> add_config(std::string_view text, const std::string& name,
                                           Rules& rules);

}  // namespace virtproxy::agent
