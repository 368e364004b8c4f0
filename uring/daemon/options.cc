#include "uring/daemon/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "uring/daemon/channel_args.h"
#include "uring/mux/memory_shares.h"

namespace virtproxy {
namespace {

constexpr std::string_view kProject = "virtproxy";

template <typename T>
std::optional<std::string> range_fault(const std::string& option, const std::string& text,
                                       const T& value, const T& low, const T& high,
                                       const std::string& range) {
  if (value >= low && value <= high) return std::nullopt;
  return option + " " + printable(text) + " is out of range: use " + range;
}

std::optional<std::string> read_count(const std::string& option, const std::string& text,
                                      uint32_t low, uint32_t high, uint32_t& result) {
  const std::string range = std::to_string(low) + " to " + std::to_string(high);
  const auto value = parse_count(text);
  if (!value) return option + " " + value.error() + ": use " + range;
  if (auto fault = range_fault<uint64_t>(option, text, *value, low, high, range)) return fault;
  result = static_cast<uint32_t>(*value);
  return std::nullopt;
}

std::optional<std::string> read_size(const std::string& option, const std::string& text,
                                     uint64_t low, uint64_t high, uint64_t& result) {
  const std::string range = format_size(low) + " to " + format_size(high);
  const auto value = parse_size(text);
  if (!value) return option + " " + value.error() + ": use " + range;
  if (auto fault = range_fault(option, text, *value, low, high, range)) return fault;
  result = *value;
  return std::nullopt;
}

std::optional<std::string> read_seconds(const std::string& option, const std::string& text,
                                        double low, double high, double& result) {
  const std::string range = format_seconds(low) + " to " + format_seconds(high) + " seconds";
  const auto value = parse_seconds(text);
  if (!value) return option + " " + value.error() + ": use " + range;
  if (auto fault = range_fault(option, text, *value, low, high, range)) return fault;
  result = *value;
  return std::nullopt;
}

std::optional<std::string> read_disabled(const std::vector<std::string>& args,
                                         std::string& result) {
  for (const std::string& arg : args) {
    for (const char c : arg) {
      const bool plain =
          (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == ',';
      if (!plain) {
        return "--disable '" + printable(arg) +
               "' is not a list of feature names: separate them with commas, and see "
               "--features for the names";
      }
    }
    if (arg.empty()) continue;
    if (!result.empty()) result += ',';
    result += arg;
  }
  return std::nullopt;
}

// The arguments as text, before anything is made of them.
struct Raw {
  std::vector<std::string> channels;
  std::vector<std::string> oforwards;
  std::vector<std::string> iforwards;
  std::vector<std::string> priorities;
  std::vector<std::string> peer_timeouts;
  std::vector<std::string> disabled;
  std::optional<std::string> threads;
  std::optional<std::string> max_streams;
  std::optional<std::string> memory;
  std::optional<std::string> window;
  std::optional<std::string> connect_timeout;
  std::optional<std::string> drain_timeout;
  std::optional<std::string> integrity;
  std::optional<std::string> protocol;
  std::optional<std::string> hold;
  std::optional<std::string> stall_timeout;
  std::optional<std::string> ack_timeout;
  std::optional<std::string> log_level;
  std::optional<std::string> control;
  std::optional<std::string> metrics;
  RawSecurityOptions security;
  unsigned verbose = 0;
  std::optional<std::string> driver;
  bool show_features = false;
  bool help = false;
  bool version = false;
};

std::string help_footer(const std::string& program) {
  return "Channel methods:\n"
         "  unix-connect:PATH:-        connect to a unix socket, again and again until it is "
         "there\n"
         "  unix-listen:PATH:-         accept on a unix socket, one peer at a time: another one "
         "waits,\n"
         "                             or replaces one that has sent nothing; a stale path is "
         "removed\n"
         "  tcp-connect:HOST:PORT      the same two over TCP\n"
         "  tcp-listen:HOST:PORT\n"
         "  virtio-serial:DEVICE:-     open a virtio-serial port (also written virtserial-open)\n"
         "  isa-serial:DEVICE:BAUD     open a serial port and make it raw; - leaves its speed "
         "alone\n"
         "  vsock-connect:CID:PORT     vsock; CID is a number, host (2) or local (1)\n"
         "  vsock-listen:CID:PORT      CID may also be any\n"
         "\n"
         "Addresses:\n"
         "  HOST:PORT    name or IPv4 address, and number or service name: 127.0.0.1:9080, "
         "localhost:http\n"
         "  [IPv6]:PORT  [::1]:9080\n"
         "  *:PORT       listeners only: every local address, as does an empty host; needs "
         "--allow-remote\n"
         "  PATH:-       a unix socket; @NAME:- one in the abstract namespace\n"
         "  :ID          after any of these: the number of the channel. Channels without one get "
         "0, 1, 2\n"
         "               in order; a forward without one belongs to channel 0\n"
         "\n"
         "Examples:\n"
         "  On the host, reach the guest's web and ssh servers through QEMU's chardev socket:\n"
         "    " +
         program +
         " -c unix-connect:/var/lib/libvirt/qemu/vp.sock:- \\\n"
         "        -o http:127.0.0.1:9080 -o ssh:127.0.0.1:9022\n"
         "  In the guest:\n"
         "    " +
         program +
         " -c virtserial-open:/dev/virtio-ports/test2:- \\\n"
         "        -i http:127.0.0.1:80 -i ssh:127.0.0.1:22\n"
         "  Two guests, one host, one service of each:\n"
         "    " +
         program +
         " -c unix-connect:/run/vm1.sock:- -c unix-connect:/run/vm2.sock:- \\\n"
         "        -o ssh:127.0.0.1:9022:0 -o ssh:127.0.0.1:9023:1 --threads 2\n"
         "\n"
         "Values:\n"
         "  SIZE is in bytes, or with K, M, G or T; SECONDS may have ms, s or m\n"
         "\n"
         "Exit codes:\n"
         "  0  stopped cleanly by SIGTERM or SIGINT, or help or version printed\n"
         "  1  every failure, with one line on standard error\n"
         "  it dies by SIGABRT where its own logic is wrong, by SIGSYS in the sandbox\n"
         "\n"
         "Environment:\n"
         "  VIRTPROXY_DISABLE  ring features to do without, as --disable\n";
}

// CLI11 leaves two empty lines after some groups.
std::string squeeze(std::string text) {
  for (size_t at = 0; (at = text.find("\n\n\n", at)) != std::string::npos;) text.erase(at, 1);
  while (text.ends_with("\n\n")) text.pop_back();
  return text;
}

std::string defaults(std::string_view text, const std::string& value) {
  return std::string(text) + " (default " + value + ")";
}

void declare(CLI::App& app, Raw& raw, const std::string& program) {
  app.name(program);
  app.description("Carries many socket connections over one channel between a host and a guest.");
  app.set_help_flag();
  app.get_formatter()->column_width(34);
  app.footer(help_footer(program));

  const auto many = [&app](const std::string& names, std::vector<std::string>& into,
                           const std::string& what, const std::string& type) {
    return app.add_option(names, into, what)
        ->type_name(type)
        ->expected(1)
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  const auto one = [&app](const std::string& names, std::optional<std::string>& into,
                          const std::string& what, const std::string& type) {
    return app
        .add_option_function<std::string>(
            names, [&into](const std::string& value) { into = value; }, what)
        ->type_name(type)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  };

  const std::string channels = "Channels and services (each may be repeated)";
  many("-c,--channel", raw.channels, "A channel to the other side", "METHOD:ADDRESS:PORT[:ID]")
      ->group(channels);
  many("-o,--oforward", raw.oforwards, "Listen here, forward to the other side's service",
       "SERVICE:ADDRESS:PORT[:ID]")
      ->group(channels);
  many("-i,--iforward", raw.iforwards, "Connect the other side's streams for a service to this",
       "SERVICE:ADDRESS:PORT[:ID]")
      ->group(channels);
  many("--priority", raw.priorities,
       "Precedence of a service given with -o: interactive, normal or bulk (default normal)",
       "SERVICE=PRIORITY")
      ->group(channels);

  many("--peer-timeout", raw.peer_timeouts,
       defaults("Drop a TCP channel whose other machine has not answered for this long, idle or "
                "not; 0: never. With ID of that channel, else of every TCP channel",
                format_seconds(option_ranges::kDefaultPeerTimeout)),
       "SECONDS[:ID]")
      ->group(channels);

  const std::string sizes = "Limits (sizes take K, M or G: 64M is 64MiB)";
  one("--max-streams", raw.max_streams,
      defaults("Streams open at once on one channel, at most",
               std::to_string(option_ranges::kDefaultStreams)),
      "N")
      ->group(sizes);
  one("--memory", raw.memory,
      defaults("Memory for data under way, in one process",
               format_size(option_ranges::kDefaultMemory)),
      "SIZE")
      ->group(sizes);
  one("--window", raw.window,
      defaults("Data under way on one stream at most", format_size(option_ranges::kDefaultWindow)),
      "SIZE")
      ->group(sizes);
  one("--connect-timeout,--dial-timeout", raw.connect_timeout,
      defaults("Give up connecting to a service after this many seconds; --dial-timeout is its "
               "earlier name",
               format_seconds(option_ranges::kDefaultConnectTimeout)),
      "SECONDS")
      ->group(sizes);
  one("--drain-timeout", raw.drain_timeout,
      defaults("On SIGTERM, let streams finish for this many seconds",
               format_seconds(option_ranges::kDefaultDrainTimeout)),
      "SECONDS")
      ->group(sizes);
  one("--integrity,--seal", raw.integrity,
      "How frames are protected: auto (commit on virtio-serial, checksum on a tty, not at all on a "
      "socket unless the other end asks), commit (for a relay that hides that an end was replaced) "
      "or checksum (for one that may damage bytes). --seal is its earlier name",
      "KIND")
      ->group(sizes);
  one("--threads", raw.threads,
      defaults("Threads to spread the channels over",
               std::to_string(option_ranges::kDefaultThreads)),
      "N")
      ->group(sizes);

  const std::string old = "Protocol (1 is that of qemu-vp)";
  one("--protocol", raw.protocol,
      "auto, 1 or 2: auto speaks 2 with an end that greets, and 1 with any other. With 2 a "
      "listener drops a peer that does not greet within 10 s (default auto)",
      "VERSION")
      ->group(old);
  one("--hold", raw.hold,
      defaults(
          "Protocol 1: what a stream may hold for a slow socket before the channel has to wait, if "
          "the memory allows it",
          format_size(option_ranges::kDefaultHold)),
      "SIZE")
      ->group(old);
  one("--stall-timeout", raw.stall_timeout,
      defaults("Protocol 1: close a stream that makes others wait and takes nothing for this many "
               "seconds",
               format_seconds(option_ranges::kDefaultStallTimeout)),
      "SECONDS")
      ->group(old);
  one("--ack-timeout", raw.ack_timeout,
      defaults("Protocol 1: refuse a client that the other end does not answer for this long",
               format_seconds(option_ranges::kDefaultAckTimeout)),
      "SECONDS")
      ->group(old);
  declare_security_options(app, raw.security);

  const std::string logging = "Log (on standard error)";
  one("--log-level", raw.log_level, "error, warn, info, debug or trace (default info)", "LEVEL")
      ->group(logging);
  app.add_flag_function(
         "-v,--verbose",
         [&raw](int64_t count) {
           raw.verbose = count > 0 ? static_cast<unsigned>(std::min<int64_t>(count, 9)) : 0;
         },
         "One level more than --log-level; may be repeated")
      ->group(logging);

  const std::string operation = "Operation";
  one("--control", raw.control, "A unix socket for virtproxyctl, for this user and root only", "PATH")
      ->group(operation);
  one("--metrics", raw.metrics,
      "Serve metrics for Prometheus over HTTP, on a loopback address or a unix socket (PATH:-)",
      "ADDRESS:PORT")
      ->group(operation);

  const std::string kernel = "Kernel";
  one("--driver", raw.driver,
      "auto, io_uring or epoll (default auto: epoll where io_uring is refused or too old)", "DRIVER")
      ->group(kernel);
  many("--disable", raw.disabled, "Features to do without, separated by commas", "LIST")
      ->group(kernel);
  app.add_flag("--features", raw.show_features, "Print the driver and the features found here and exit")
      ->group(kernel);

  const std::string information = "Information";
  app.add_flag("-h,--help", raw.help, "Print this help and exit")->group(information);
  app.add_flag("-V,--version", raw.version, "Print the version and exit")->group(information);
}

uint32_t streams_that_fit(const Options& options) {
  const uint64_t memory = options.memory / options.channels.size();
  const uint64_t fitting = most_streams(receive_share(memory));
  return static_cast<uint32_t>(std::min<uint64_t>(fitting, option_ranges::kDefaultStreams));
}

std::optional<std::string> read_operation(const Raw& raw, Options& options) {
  if (raw.control) {
    auto parsed = parse_address(*raw.control + ":-", AddressUse::kListen, Address::Kind::kUnix);
    if (!parsed) return "--control: " + parsed.error();
    options.control = parsed->address;
  }
  if (raw.metrics) {
    auto parsed = parse_address(*raw.metrics, AddressUse::kListen);
    if (!parsed) return "--metrics: " + parsed.error();
    options.metrics = parsed->address;
  }
  return std::nullopt;
}

std::optional<std::string> interpret(const Raw& raw, Options& options) {
  if (auto fault = read_operation(raw, options)) return fault;
  auto channels = parse_channels(raw.channels);
  if (!channels) return channels.error();
  options.channels = *std::move(channels);
  auto oforwards = parse_forwards(raw.oforwards, 'o');
  if (!oforwards) return oforwards.error();
  options.oforwards = *std::move(oforwards);
  auto iforwards = parse_forwards(raw.iforwards, 'i');
  if (!iforwards) return iforwards.error();
  options.iforwards = *std::move(iforwards);

  using namespace option_ranges;
  std::optional<std::string> fault;
  if (!fault && raw.threads) {
    fault = read_count("--threads", *raw.threads, kMinThreads, kMaxThreads, options.threads);
  }
  if (!fault && raw.max_streams) {
    fault = read_count("--max-streams", *raw.max_streams, kMinStreams, kMaxStreams,
                       options.max_streams);
  }
  if (!fault && raw.memory) {
    fault = read_size("--memory", *raw.memory, kMinMemory, kMaxMemory, options.memory);
  }
  if (!fault && raw.window) {
    fault = read_size("--window", *raw.window, kMinWindow, kMaxWindow, options.window);
  }
  if (!fault && raw.connect_timeout) {
    fault = read_seconds("--connect-timeout", *raw.connect_timeout, kMinConnectTimeout,
                         kMaxConnectTimeout, options.connect_timeout);
  }
  if (!fault && raw.integrity) {
    if (*raw.integrity == "commit") {
      options.integrity = Integrity::kCommit;
    } else if (*raw.integrity == "checksum") {
      options.integrity = Integrity::kChecksum;
    } else if (*raw.integrity != "auto") {
      fault = "--integrity " + printable(*raw.integrity) + ": it is auto, commit or checksum";
    }
  }
  if (!fault && raw.protocol) {
    if (*raw.protocol == "1") {
      options.protocol = ProtocolMode::kV1;
    } else if (*raw.protocol == "2") {
      options.protocol = ProtocolMode::kV2;
    } else if (*raw.protocol != "auto") {
      fault = "--protocol " + printable(*raw.protocol) + ": it is auto, 1 or 2";
    }
  }
  if (!fault && raw.hold) fault = read_size("--hold", *raw.hold, kMinHold, kMaxHold, options.hold);
  if (!fault && raw.stall_timeout) {
    fault = read_seconds("--stall-timeout", *raw.stall_timeout, kMinStallTimeout, kMaxStallTimeout,
                         options.stall_timeout);
  }
  if (!fault && raw.ack_timeout) {
    fault = read_seconds("--ack-timeout", *raw.ack_timeout, kMinAckTimeout, kMaxAckTimeout,
                         options.ack_timeout);
  }
  if (!fault && raw.drain_timeout) {
    fault = read_seconds("--drain-timeout", *raw.drain_timeout, kMinDrainTimeout, kMaxDrainTimeout,
                         options.drain_timeout);
  }
  if (!fault && raw.driver) {
    if (*raw.driver == "io_uring") {
      options.driver = DriverChoice::kIoUring;
    } else if (*raw.driver == "epoll") {
      options.driver = DriverChoice::kEpoll;
    } else if (*raw.driver != "auto") {
      fault = "--driver " + printable(*raw.driver) + ": it is auto, io_uring or epoll";
    }
  }
  if (!fault) fault = read_disabled(raw.disabled, options.disabled);
  if (fault) return fault;
  if (options.window > options.memory) {
    return "--window " + format_size(options.window) + " is larger than --memory " +
           format_size(options.memory) + ": make the window smaller or the memory larger";
  }
  if (raw.log_level) {
    const auto level = parse_log_level(*raw.log_level);
    if (!level) {
      return "--log-level '" + printable(*raw.log_level) +
             "' is not a level: use error, warn, info, debug or trace";
    }
    options.log_level = *level;
  }
  options.log_level = static_cast<LogLevel>(
      std::min(static_cast<int>(options.log_level) + static_cast<int>(raw.verbose),
               static_cast<int>(LogLevel::kTrace)));
  options.show_features = raw.show_features;
  if (options.show_features && options.channels.empty()) return std::nullopt;

  if (options.channels.empty()) {
    return "no channel specified: give at least one -c METHOD:ADDRESS:PORT[:ID]";
  }
  if (auto missing = check_channel_ids(options)) return missing;
  if (auto clash = check_exclusive(options)) return clash;
  if (auto unsafe = interpret_security_options(raw.security, options)) return unsafe;
  if (auto wrong = apply_peer_timeouts(raw.peer_timeouts, options.channels)) return wrong;
  if (!raw.max_streams) options.max_streams = streams_that_fit(options);
  for (const std::string& priority : raw.priorities) {
    if (auto wrong = apply_priority(priority, options.oforwards)) return wrong;
  }
  return std::nullopt;
}

// What CLI11 has to say, as the rest of one line.
std::string explain(const CLI::ParseError& error, const CLI::App& app) {
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    std::string first;
    for (const std::string& extra : app.remaining()) {
      first = extra;
      if (extra != "--") break;
    }
    if (first.starts_with('-') && first.size() > 1) return "unknown option: " + printable(first);
    return "unexpected argument: " + printable(first) + ": everything is given by options";
  }
  return printable(error.what());
}

std::string program_name(int argc, const char* const* argv) {
  if (argc < 1 || argv == nullptr || argv[0] == nullptr) return std::string(kProject);
  const std::string_view path = argv[0];
  const std::string name = printable(path.substr(path.rfind('/') + 1));
  return name.empty() ? std::string(kProject) : name;
}

}  // namespace

ParseResult parse_options(int argc, const char* const* argv) {
  const std::string program = program_name(argc, argv);
  const auto fail = [&program](const std::string& text) {
    return tl::unexpected<ParseExit>(ParseExit{1, true, program + ": " + text + "\n"});
  };
  std::vector<std::string> args;
  for (int i = argc - 1; i > 0; --i) args.emplace_back(argv[i]);

  CLI::App app;
  Raw raw;
  declare(app, raw, program);
  try {
    app.parse(args);
  } catch (const CLI::ParseError& error) {
    return fail(explain(error, app) + "; see '" + program + " --help'");
  }
  if (raw.help) return tl::unexpected<ParseExit>(ParseExit{0, false, squeeze(app.help() + "\n")});
  if (raw.version) {
    std::string text = program;
    if (program != kProject) text += " (" + std::string(kProject) + ")";
    return tl::unexpected<ParseExit>(ParseExit{0, false, text + " " VIRTPROXY_VERSION "\n"});
  }
  Options options;
  if (const auto fault = interpret(raw, options)) return fail(*fault);
  return options;
}

}  // namespace virtproxy
