// The command line: which channels there are, which services are offered, within which limits.
//
// parse_options() is a pure function of its arguments (it reads /etc/services for port names,
// interface names for IPv6 scopes and /etc/passwd and /etc/group for users, nothing else): it opens
// nothing, prints nothing and looks at no environment variable. It either gives Options in which
// everything that can be known without the kernel has been checked, or says what to print where and
// with which code to exit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "core/flow/limits.h"
#include "core/protocol_selector.h"
#include "uring/base/log.h"
#include "uring/base/units.h"
#include "uring/daemon/security_options.h"
#include "uring/io/open_driver.h"
#include "uring/net/address.h"
#include "uring/net/forward_spec.h"
#include "uring/transport/channel_spec.h"

namespace virtproxy {

// Every default and limit of the command line. Sizes in bytes, times in seconds.
namespace option_ranges {
inline constexpr unsigned kDefaultThreads = 1;
inline constexpr unsigned kMinThreads = 1;
inline constexpr unsigned kMaxThreads = 256;

inline constexpr uint32_t kDefaultStreams = 16384;
inline constexpr uint32_t kMinStreams = 1;
inline constexpr uint32_t kMaxStreams = 1048576;

inline constexpr uint64_t kDefaultMemory = uint64_t{256} << 20;
inline constexpr uint64_t kMinMemory = uint64_t{8} << 20;
inline constexpr uint64_t kMaxMemory = uint64_t{1} << 40;

inline constexpr uint64_t kDefaultWindow = uint64_t{1} << 20;
inline constexpr uint64_t kMinWindow = uint64_t{4} << 10;
inline constexpr uint64_t kMaxWindow = uint64_t{1} << 30;

inline constexpr double kDefaultConnectTimeout = 10.0;
inline constexpr double kMinConnectTimeout = 0.1;
inline constexpr double kMaxConnectTimeout = 3600.0;

inline constexpr double kDefaultDrainTimeout = 5.0;
inline constexpr double kMinDrainTimeout = 0.0;
inline constexpr double kMaxDrainTimeout = 3600.0;

// Of a TCP channel; 0 is never.
inline constexpr double kDefaultPeerTimeout = ChannelSpec::kDefaultPeerTimeout;
inline constexpr double kMinPeerTimeout = 3.0;
inline constexpr double kMaxPeerTimeout = 86400.0;

inline constexpr uint64_t kDefaultHold = uint64_t{1} << 30;  // the memory is what bounds it
inline constexpr uint64_t kMinHold = uint64_t{64} << 10;
inline constexpr uint64_t kMaxHold = uint64_t{1} << 30;

inline constexpr double kDefaultStallTimeout = 20.0;
inline constexpr double kMinStallTimeout = 0.01;
inline constexpr double kMaxStallTimeout = 3600.0;

inline constexpr double kDefaultAckTimeout = 15.0;
inline constexpr double kMinAckTimeout = 0.1;
inline constexpr double kMaxAckTimeout = 3600.0;

// The old wire format carries no more.
inline constexpr size_t kMaxServiceName = protocol_limits::kMaxService;
inline constexpr size_t kMaxChannels = 1024;
inline constexpr size_t kMaxForwards = 16384;  // -o and -i each
}  // namespace option_ranges

struct Options {
  std::vector<ChannelSpec> channels;   // in the order given
  std::vector<ForwardSpec> oforwards;  // -o: listen here, the other side has the service
  std::vector<ForwardSpec> iforwards;  // -i: dial here what the other side asks for
  Integrity integrity = Integrity::kAuto;  // of every channel
  unsigned threads = option_ranges::kDefaultThreads;
  // On each channel. Where it was not given, as many as the memory has room for, up to the default.
  uint32_t max_streams = option_ranges::kDefaultStreams;
  uint64_t memory = option_ranges::kDefaultMemory;  // bytes; never less than window
  uint64_t window = option_ranges::kDefaultWindow;  // bytes a stream may have in flight at most
  double connect_timeout = option_ranges::kDefaultConnectTimeout;  // seconds
  double drain_timeout = option_ranges::kDefaultDrainTimeout;      // seconds
  // Of every channel; the rest is of protocol 1 alone.
  ProtocolMode protocol = ProtocolMode::kAuto;
  uint64_t hold = option_ranges::kDefaultHold;                 // bytes
  double stall_timeout = option_ranges::kDefaultStallTimeout;  // seconds
  double ack_timeout = option_ranges::kDefaultAckTimeout;      // seconds
  SecurityOptions security;
  LogLevel log_level = LogLevel::kInfo;
  std::optional<Address> control;  // a unix socket
  std::optional<Address> metrics;  // loopback TCP or a unix socket
  std::string disabled;  // ring features to do without, separated by commas; names not checked
  DriverChoice driver = DriverChoice::kAuto;
  bool show_features = false;  // print the ring features and exit; there may be no channel then
};

// What to do instead of running.
struct ParseExit {
  int code = 0;            // 0 for help and version, 1 for every failure
  bool to_stderr = false;  // otherwise standard output
  std::string text;        // ends with a newline; a failure is exactly one line
};

using ParseResult = tl::expected<Options, ParseExit>;

// argv as main gets it; the last component of argv[0] is the name used in messages.
ParseResult parse_options(int argc, const char* const* argv);

}  // namespace virtproxy
