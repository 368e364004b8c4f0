// What the daemon is asked to do: which channels there are, which services, within which limits.
//
// It comes from the command line and from the files of --config. An option of the command line
// takes the place of the same key in [process] and [defaults]; a channel or forward of a file keeps
// what is written in its own table; -c, -o and -i add channels and forwards.
//
// parse_options() opens nothing but what `read_config` opens, prints nothing and looks at no
// environment variable. It reads /etc/services for port names, interface names for IPv6 scopes and
// /etc/passwd and /etc/group for users. It either gives Options in which everything that can be
// known without the kernel has been checked, or says what to print where and with which code to
// exit.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "uring/daemon/config_files.h"
#include "uring/daemon/config_tree.h"
#include "uring/daemon/settings.h"
#include "uring/io/driver_features.h"
#include "uring/net/forward_spec.h"
#include "uring/transport/channel_spec.h"

namespace virtproxy {

struct ChannelOptions : ChannelSpec {
  ChannelSettings settings;
  // What holds where the settings leave it open.
  uint64_t memory = 0;  // bytes
  uint32_t max_streams = 0;
};

enum class Task {
  kRun,
  kShowFeatures,  // print the ring features; there may be no channel then
  kCheck,
  kPrintConfig,
};

struct Options {
  Task task = Task::kRun;
  bool from_file = false;  // a file was read, so that an error is one of configuration
  std::string config;      // its path; empty without one
  ProcessSettings process;
  uint64_t memory = option_ranges::kDefaultMemory;  // bytes, of all channels together
  std::vector<ChannelOptions> channels;             // those of files, then -c, in the order given
  std::vector<ForwardSpec> oforwards;               // listen here, the other end has the service
  std::vector<ForwardSpec> iforwards;               // connect here what the other end asks for

  // True if channels and forwards may change while the process runs.
  bool can_change() const { return from_file || process.control.has_value(); }
};

// The channel that lines are shipped over; null where none are.
const ChannelOptions* shipping_channel(const Options& options);

// Gives a channel its own memory or else `part`, bytes, and as many streams as follow from that.
void give_memory(ChannelOptions& channel, uint64_t part);

// Exit code of an error of configuration (EX_CONFIG of sysexits.h).
inline constexpr int kConfigError = 78;

// What to do instead of running.
struct ParseExit {
  int code = 0;            // 0 for help and version, 1 for a command line, 78 for a configuration
  bool to_stderr = false;  // otherwise standard output
  std::string
      text;  // ends with a newline; one line for each error, of a command line only the first
};

using ParseResult = tl::expected<Options, ParseExit>;
using ReadConfig = std::function<tl::expected<std::vector<ConfigText>, std::vector<Problem>>(
    const std::string& path)>;

// argv as main gets it; the last component of argv[0] is the name used in messages.
ParseResult parse_options(int argc, const char* const* argv,
                          const ReadConfig& read_config = read_config_files);

// Switches off what a list of `disable` names, separated by commas: features of a driver, and
// landlock. An error names a name that is unknown, and those that are known.
tl::expected<void, std::string> disable(std::string_view list, DriverFeatures& features,
                                        bool& landlock);

// The options as a configuration file, which gives the same options when it is read.
std::string print_config(const Options& options);

}  // namespace virtproxy
