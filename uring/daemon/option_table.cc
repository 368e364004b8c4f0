#include "uring/daemon/option_table.h"

#include <algorithm>

#include "core/assert.h"
#include "uring/daemon/option_values.h"

namespace virtproxy {
namespace {

using namespace option_ranges;
using namespace option_scope;
using option_values::read_member;
using option_values::show_member;
using enum OptionGroup;
using enum OptionKind;

// A row without its member.
constexpr OptionRow row(std::string_view name, OptionGroup group, unsigned scopes, OptionKind kind,
                        std::string_view unit, std::string_view help) {
  OptionRow result{};
  result.name = name;
  result.group = group;
  result.scopes = scopes;
  result.kind = kind;
  result.unit = unit;
  result.help = help;
  return result;
}

template <auto Member>
constexpr OptionRow sets(OptionRow result) {
  result.read = read_member<Member>;
  result.show = show_member<Member>;
  return result;
}

template <auto Member>
constexpr OptionRow sets(OptionRow result, double least, double most) {
  result.least = least;
  result.most = most;
  return sets<Member>(result);
}

constexpr OptionRow with_aliases(OptionRow result, std::string_view aliases) {
  result.aliases = aliases;
  return result;
}

constexpr OptionRow with_key(OptionRow result, std::string_view key) {
  result.key = key;
  return result;
}

constexpr OptionRow with_argument(OptionRow result, std::string_view argument) {
  result.argument = argument;
  return result;
}

constexpr OptionRow with_unset(OptionRow result, std::string_view unset) {
  result.unset = unset;
  return result;
}

// What the command line gives for all channels, and a file for each.
constexpr unsigned kEachChannel = kCommandLine | kChannel;
constexpr unsigned kAllProcess = kCommandLine | kProcess;

using P = ProcessSettings;
using C = ChannelSettings;

constexpr OptionRow kTable[] = {
    with_aliases(
        row("channel", kChannels, kCommandLine, kArgument, "METHOD:ADDRESS:PORT[:NAME]",
            "A channel to the other end, and its name: letters, digits, - _ and . or a number"),
        "-c"),
    with_aliases(
        row("oforward", kChannels, kCommandLine, kArgument, "SERVICE:ADDRESS:PORT[:CHANNEL]",
            "Listen here, forward to the other end's service"),
        "-o"),
    with_aliases(
        row("iforward", kChannels, kCommandLine, kArgument, "SERVICE:ADDRESS:PORT[:CHANNEL]",
            "Connect the other end's streams for a service to this"),
        "-i"),
    with_argument(
        sets<&C::priority>(row("priority", kChannels, kCommandLine | kListen, kChoice, "PRIORITY",
                               "Precedence of a service given with -o: interactive, "
                               "normal or bulk")),
        "SERVICE=PRIORITY"),
    sets<&C::when_down>(
        row("when-down", kChannels, kEachChannel | kListen, kChoice, "POLICY",
            "What clients of -o get while the channel is down: reset (accepted, then reset), close "
            "(refused on TCP, reset on a unix socket) or 'hold TIME' (accepted, and kept so long)")),
    with_argument(
        sets<&C::peer_timeout>(
            row("peer-timeout", kChannels, kEachChannel, kSeconds, "SECONDS",
                "Drop a TCP channel whose other machine has not answered for this long, idle or "
                "not; 0: never. With the name of that channel, else of every TCP channel"),
            kMinPeerTimeout, kMaxPeerTimeout),
        "SECONDS[:CHANNEL]"),

    with_unset(sets<&C::max_streams>(row("max-streams", kLimits, kEachChannel, kCount, "N",
                                         "Streams open at once on one channel, at most"),
                                     kMinStreams, kMaxStreams),
               "16384, or as many as the memory has room for"),
    with_unset(sets<&P::memory>(row("memory", kLimits, kAllProcess, kSize, "SIZE",
                                    "Memory for data under way, in one process"),
                                static_cast<double>(kMinMemory), static_cast<double>(kMaxMemory)),
               "256M"),
    with_unset(
        sets<&C::memory>(
            row("memory", kLimits, kChannel, kSize, "SIZE", "A channel's own part of the memory"),
            static_cast<double>(kMinChannelMemory), static_cast<double>(kMaxMemory)),
        "an equal part of what is left"),
    sets<&C::window>(
        row("window", kLimits, kEachChannel, kSize, "SIZE", "Data under way on one stream at most"),
        static_cast<double>(kMinWindow), static_cast<double>(kMaxWindow)),
    with_aliases(
        sets<&C::connect_timeout>(
            row("connect-timeout", kLimits, kEachChannel | kOffer, kSeconds, "SECONDS",
                "Give up connecting to a service after this many seconds; --dial-timeout is its "
                "earlier name"),
            kMinConnectTimeout, kMaxConnectTimeout),
        "--dial-timeout"),
    sets<&P::drain_timeout>(row("drain-timeout", kLimits, kAllProcess, kSeconds, "SECONDS",
                                "On SIGTERM, let streams finish for this many seconds"),
                            kMinDrainTimeout, kMaxDrainTimeout),
    with_aliases(
        sets<&C::integrity>(
            row("integrity", kLimits, kEachChannel, kChoice, "KIND",
                "How frames are protected: auto (commit on virtio-serial, checksum on a tty, not "
                "at all on a socket unless the other end asks), commit (for a relay that hides "
                "that an end was replaced) or checksum (for one that may damage bytes). --seal is "
                "its earlier name")),
        "--seal"),
    sets<&P::threads>(
        row("threads", kLimits, kAllProcess, kCount, "N", "Threads to spread the channels over"),
        kMinThreads, kMaxThreads),

    sets<&C::protocol>(
        row("protocol", kProtocol, kEachChannel, kChoice, "VERSION",
            "auto, 1 or 2: auto speaks 2 with an end that greets, and 1 with any "
            "other. With 2 a listener drops a peer that does not greet within 10 s")),
    sets<&C::hold>(row("hold", kProtocol, kEachChannel, kSize, "SIZE",
                       "Protocol 1: what a stream may hold for a slow socket before the channel "
                       "has to wait, if the memory allows it"),
                   static_cast<double>(kMinHold), static_cast<double>(kMaxHold)),
    sets<&C::stall_timeout>(row("stall-timeout", kProtocol, kEachChannel, kSeconds, "SECONDS",
                                "Protocol 1: close a stream that makes others wait and takes "
                                "nothing for this many seconds"),
                            kMinStallTimeout, kMaxStallTimeout),
    sets<&C::ack_timeout>(row("ack-timeout", kProtocol, kEachChannel, kSeconds, "SECONDS",
                              "Protocol 1: refuse a client that the other end does not answer for "
                              "this long"),
                          kMinAckTimeout, kMaxAckTimeout),

    sets<&P::user>(row("user", kContainment, kAllProcess, kUser, "USER[:GROUP]",
                       "Started as root, run as this user once every listener is bound: with the "
                       "groups it has, or with GROUP alone. Devices and directories must be open "
                       "to it")),
    sets<&P::sandbox>(row("sandbox", kContainment, kAllProcess, kSwitch, "on|off",
                          "Filter system calls, confine files and ports, and as root without "
                          "--user drop capabilities: on or off")),
    with_key(sets<&C::mode>(row("socket-mode", kContainment, kEachChannel | kListen, kMode, "OCTAL",
                                "Mode of the unix sockets it listens on (default: as the umask "
                                "says). Abstract ones have none: use lists")),
             "mode"),
    with_key(sets<&C::owner>(row("socket-owner", kContainment, kEachChannel | kListen, kOwner,
                                 "[USER][:GROUP]", "Their owner (default: the user it runs as)")),
             "owner"),
    sets<&C::client_uids>(row("allow-uid", kContainment, kEachChannel | kListen, kUsers, "USER,...",
                              "Only these users may connect to unix sockets of -o")),
    sets<&C::client_gids>(row("allow-gid", kContainment, kEachChannel | kListen, kGroups,
                              "GROUP,...", "The same by group; with both, either suffices")),
    sets<&C::peer_uids>(row("channel-allow-uid", kContainment, kEachChannel, kUsers, "USER,...",
                            "Only these users may be the other end of unix-listen channels")),
    sets<&C::peer_gids>(row("channel-allow-gid", kContainment, kEachChannel, kGroups, "GROUP,...",
                            "The same by group")),
    sets<&C::peer_cids>(row("channel-allow-cid", kContainment, kEachChannel, kCids, "CID,...",
                            "Only these CIDs may be the other end of vsock-listen channels")),
    sets<&C::allow_remote>(row("allow-remote", kContainment, kEachChannel | kListen, kSwitch, "",
                               "TCP listeners may have addresses that other machines reach; else "
                               "only loopback")),

    with_key(
        sets<&P::collect>(row(
            "collect", kCollection, kCommandLine | option_scope::kCollect, kSinks, "SINK",
            "Take the logs that the other ends ship, and pass them on to this sink; may be repeated. "
            "file:PATH, with ,rotate=SIZE or TIME, ,keep=N, ,format=rfc5424 or json, ,sync=on; stdout; "
            "relp:HOST:PORT; forward:HOST:PORT; otlp:HOST:PORT; syslog+tcp:HOST:PORT; "
            "syslog+unix:PATH; unix-dgram:PATH; exec:PATH, with ,arg=TEXT")),
        "sink"),
    with_key(sets<&P::collect_spool>(
                 row("collect-spool", kCollection, kCommandLine | option_scope::kCollect, kSpool,
                     "PATH:SIZE[,sync=WHEN]",
                     "Keep the lines that arrive in this file, which is allocated as a whole, "
                     "until all sinks have them; synced never, after each batch or every TIME (1s)")),
             "spool"),
    with_unset(with_key(sets<&P::collect_ack>(
                            row("collect-ack", kCollection, kCommandLine | option_scope::kCollect,
                                kChoice, "WHEN",
                                "Acknowledge a line to the other end once it is in the spool, or "
                                "in all sinks: spool or sink")),
                        "ack"),
               "spool with --collect-spool, else sink"),

    sets<&P::log_level>(
        row("log-level", kLog, kAllProcess, kChoice, "LEVEL", "error, warn, info, debug or trace")),
    sets<&P::log_format>(row("log-format", kLog, kAllProcess, kChoice, "FORMAT",
                             "text, or json: one object a line with time, level, channel and "
                             "message")),
    with_aliases(row("verbose", kLog, kCommandLine, kAction, "",
                     "One level more than --log-level; may be repeated"),
                 "-v"),

    with_key(sets<&P::ship_sources>(
                 row("ship", kLogShipping, kCommandLine | kShip, kSources, "SOURCE",
                     "Ship the lines of this source to the other end: unix-dgram:PATH, "
                     "unix:PATH, udp:HOST:PORT, tcp:HOST:PORT, stdin, kmsg or journal; "
                     "with full=POLICY, then=POLICY, block-for=TIME, rate=LINES, "
                     "name=NAME and others. May be repeated")),
             "source"),
    with_key(sets<&P::ship_memory>(
                 row("ship-memory", kLogShipping, kCommandLine | kShip, kSize, "SIZE",
                     "Memory for lines that are neither acknowledged nor in the "
                     "spool"),
                 static_cast<double>(kMinShipMemory), static_cast<double>(kMaxShipMemory)),
             "memory"),
    with_key(sets<&P::ship_spool>(row("ship-spool", kLogShipping, kCommandLine | kShip, kSpool,
                                      "PATH:SIZE[,sync=WHEN]",
                                      "Keep lines in this file, which is allocated as a whole, "
                                      "until they are acknowledged; synced never, after each batch "
                                      "or every TIME (1s)")),
             "spool"),
    with_key(sets<&P::ship_flush_timeout>(
                 row("ship-flush-timeout", kLogShipping, kCommandLine | kShip, kSeconds, "TIME",
                     "On SIGTERM, wait this long for lines to be acknowledged"),
                 kMinFlushTimeout, kMaxFlushTimeout),
             "flush-timeout"),
    with_unset(with_key(sets<&P::ship_channel>(row("ship-channel", kLogShipping,
                                                   kCommandLine | kShip, kName, "CHANNEL",
                                                   "The channel that lines are shipped over")),
                        "channel"),
               "the first one"),

    sets<&P::control>(row("control", kOperation, kAllProcess, kListener, "PATH",
                          "A unix socket for virtproxyctl, for this user and root only")),
    sets<&C::share_stats>(row("share-stats", kOperation, kEachChannel, kSwitch, "",
                              "The other end may ask what is known here of its channel and its "
                              "streams (virtproxyctl far)")),
    sets<&P::metrics>(row("metrics", kOperation, kAllProcess, kListener, "ADDRESS:PORT",
                          "Serve metrics for Prometheus over HTTP, on a loopback address or, given "
                          "a path, on a unix socket")),

    sets<&P::driver>(
        row("driver", kKernel, kAllProcess, kChoice, "DRIVER",
            "How it waits for the kernel: io_uring, epoll, or auto: io_uring, and epoll "
            "where that is missing or forbidden")),
    sets<&P::disabled>(row("disable", kKernel, kAllProcess, kFeatures, "LIST",
                           "Ring features to do without, separated by commas")),
    row("features", kKernel, kCommandLine, kAction, "",
        "Print the ring features found here and exit"),

    row("config", kConfiguration, kCommandLine, kAction, "FILE",
        "Read this file and conf.d/*.toml beside it. Options given here override [process] and "
        "[defaults]; -c, -o and -i add to it"),
    row("check", kConfiguration, kCommandLine, kAction, "",
        "Verify the configuration without opening anything, and exit: 0, or 78 with every error"),
    row("print-config", kConfiguration, kCommandLine, kAction, "",
        "Print the configuration in effect, as a file that --config reads, and exit"),

    with_aliases(row("help", kInformation, kCommandLine, kAction, "", "Print this help and exit"),
                 "-h"),
    with_aliases(
        row("version", kInformation, kCommandLine, kAction, "", "Print the version and exit"),
        "-V"),
};

}  // namespace

std::span<const OptionRow> option_table() { return kTable; }

const OptionRow& option_row(std::string_view name) {
  const auto* const found = std::find_if(
      std::begin(kTable), std::end(kTable),
      [&](const OptionRow& each) { return each.name == name && each.in(kCommandLine); });
  VP_ASSERT(found != std::end(kTable));
  return *found;
}

const OptionRow* find_key(std::string_view key, unsigned scope) {
  const auto* const found =
      std::find_if(std::begin(kTable), std::end(kTable),
                   [&](const OptionRow& each) { return each.file_key() == key && each.in(scope); });
  return found == std::end(kTable) ? nullptr : found;
}

std::string OptionRow::spelling() const {
  const std::string own = "--" + std::string(name);
  if (aliases.empty()) return own;
  return aliases.starts_with("--") ? own + "," + std::string(aliases)
                                   : std::string(aliases) + "," + own;
}

std::string OptionRow::shown_default() const {
  if (!unset.empty()) return std::string(unset);
  if (show == nullptr || kind > OptionKind::kSwitch || is_flag()) return {};
  const auto shown = show(*this, ProcessSettings{}, ChannelSettings{});
  return shown.empty() ? std::string() : shown.front();
}

std::string_view group_title(OptionGroup group) {
  switch (group) {
    case kChannels:
      return "Channels and services (each may be repeated)";
    case kLimits:
      return "Limits (sizes take K, M, G or T: 64M is 64MiB)";
    case kProtocol:
      return "Protocol (1 is that of qemu-vp)";
    case kContainment:
      return "Containment (names or numbers; lists may be repeated)";
    case kCollection:
      return "Logs of the other ends (COLLECTING.md)";
    case kLog:
      return "Log (on standard error)";
    case kLogShipping:
      return "Log shipping (see SHIPPING.md)";
    case kOperation:
      return "Operation";
    case kKernel:
      return "Kernel";
    case kConfiguration:
      return "Configuration file";
    case kInformation:
      break;
  }
  return "Information";
}

}  // namespace virtproxy
