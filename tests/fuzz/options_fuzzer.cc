// Any command line: it is either understood, and then within every limit, or refused with exactly
// one line. What was understood is understood again from its own words.

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "core/assert.h"
#include "uring/daemon/channel_args.h"
#include "uring/daemon/options.h"

using namespace virtproxy;

namespace {

ParseResult parse(const std::vector<std::string>& args) {
  std::vector<const char*> argv{"virtproxy"};
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  argv.push_back(nullptr);
  return parse_options(static_cast<int>(argv.size()) - 1, argv.data());
}

// Words that it would take long to guess, one byte each; the others stand for themselves.
const std::vector<std::string> kWords = {
    "-c",
    "-o",
    "-i",
    "unix-connect:",
    "unix-listen:",
    "tcp-connect:",
    "tcp-listen:",
    "virtio-serial:",
    "isa-serial:",
    "vsock-connect:",
    "vsock-listen:",
    "--memory",
    "--window",
    "--max-streams",
    "--threads",
    "--priority",
    "--integrity",
    "--seal",
    "--connect-timeout",
    "--dial-timeout",
    "--drain-timeout",
    "--log-level",
    "--disable",
    "127.0.0.1:",
    "[::1]:",
    "localhost:",
    "/x:-",
    "@x:-",
    "interactive",
    "bulk",
    "checksum",
    "debug",
    "--user",
    "--sandbox",
    "--socket-mode",
    "--socket-owner",
    "--allow-uid",
    "--allow-gid",
    "--channel-allow-uid",
    "--channel-allow-gid",
    "--channel-allow-cid",
    "--allow-remote",
    "--hold",
    "--stall-timeout",
    "--ack-timeout",
    "--protocol",
    "root",
    "0.0.0.0:",
};

std::vector<std::string> split(const uint8_t* data, size_t size) {
  std::vector<std::string> args(1);
  for (size_t i = 0; i < size; ++i) {
    if (data[i] == 0 || data[i] == '\n') {
      args.emplace_back();
    } else if (data[i] >= 128 && data[i] - 128u < kWords.size()) {
      args.back() += kWords[data[i] - 128u];
    } else {
      args.back() += static_cast<char>(data[i]);
    }
  }
  return args;
}

void check_refusal(const ParseExit& exit) {
  VP_ASSERT(!exit.text.empty() && exit.text.back() == '\n');
  if (exit.code == 0) return;
  VP_ASSERT(exit.code == 1 && exit.to_stderr);
  VP_ASSERT(exit.text.find('\n') == exit.text.size() - 1);
  for (const char c : exit.text) VP_ASSERT(c == '\n' || (c >= ' ' && c <= '~') || c < 0);
}

void check_forwards(const std::vector<ForwardSpec>& forwards, const std::set<unsigned>& ids) {
  VP_ASSERT(forwards.size() <= option_ranges::kMaxForwards);
  for (const ForwardSpec& forward : forwards) {
    VP_ASSERT(ids.contains(forward.id));
    VP_ASSERT(!forward.service.empty() && forward.service.size() <= option_ranges::kMaxServiceName);
  }
}

bool takes_clients(const Options& options, Address::Kind kind) {
  return std::any_of(options.oforwards.begin(), options.oforwards.end(),
                     [&](const ForwardSpec& forward) { return forward.address.kind == kind; });
}

bool takes_peers(const Options& options, Address::Kind kind) {
  return std::any_of(options.channels.begin(), options.channels.end(),
                     [&](const ChannelSpec& channel) {
                       return transport_listens(channel.transport) && channel.address.kind == kind;
                     });
}

// What is said to be guarded is there, and what others can reach was asked for.
void check_security_options(const Options& options) {
  const SecurityOptions& of = options.security;
  VP_ASSERT(!of.clients.guards_unix() || takes_clients(options, Address::Kind::kUnix));
  VP_ASSERT(!of.clients.guards_vsock());
  VP_ASSERT(!of.peers.guards_unix() || takes_peers(options, Address::Kind::kUnix));
  VP_ASSERT(!of.peers.guards_vsock() || takes_peers(options, Address::Kind::kVsock));
  VP_ASSERT(!of.listen.mode || *of.listen.mode <= 0777);
  if (of.listen.allow_remote) return;
  for (const ForwardSpec& forward : options.oforwards) {
    VP_ASSERT(forward.address.kind != Address::Kind::kTcp || forward.address.host != "0.0.0.0");
  }
}

void check(const Options& options) {
  if (options.show_features) return;
  VP_ASSERT(!options.channels.empty() && options.channels.size() <= option_ranges::kMaxChannels);
  std::set<unsigned> ids;
  for (const ChannelSpec& channel : options.channels) {
    VP_ASSERT(ids.insert(channel.id).second && channel.id <= kMaxChannelId);
    if (channel.text.find('\\') != std::string::npos) continue;  // made printable
    const auto again = parse_channels({channel.text});
    VP_ASSERT(again && again->front().address == channel.address);
    VP_ASSERT(again->front().transport == channel.transport);
  }
  check_forwards(options.oforwards, ids);
  check_forwards(options.iforwards, ids);
  VP_ASSERT(options.threads >= option_ranges::kMinThreads &&
            options.threads <= option_ranges::kMaxThreads);
  VP_ASSERT(options.max_streams >= 1 && options.max_streams <= option_ranges::kMaxStreams);
  VP_ASSERT(options.memory >= option_ranges::kMinMemory &&
            options.memory <= option_ranges::kMaxMemory);
  VP_ASSERT(options.window >= option_ranges::kMinWindow && options.window <= options.memory);
  VP_ASSERT(options.connect_timeout >= option_ranges::kMinConnectTimeout);
  VP_ASSERT(options.connect_timeout <= option_ranges::kMaxConnectTimeout);
  VP_ASSERT(options.drain_timeout >= option_ranges::kMinDrainTimeout);
  VP_ASSERT(options.drain_timeout <= option_ranges::kMaxDrainTimeout);
  VP_ASSERT(options.hold >= option_ranges::kMinHold && options.hold <= option_ranges::kMaxHold);
  VP_ASSERT(options.stall_timeout >= option_ranges::kMinStallTimeout);
  VP_ASSERT(options.stall_timeout <= option_ranges::kMaxStallTimeout);
  VP_ASSERT(options.ack_timeout >= option_ranges::kMinAckTimeout);
  VP_ASSERT(options.ack_timeout <= option_ranges::kMaxAckTimeout);
  check_security_options(options);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const ParseResult parsed = parse(split(data, size));
  if (parsed) {
    check(*parsed);
  } else {
    check_refusal(parsed.error());
  }
  return 0;
}
