// Any command line: it is either understood, and then within every limit, or refused with exactly
// one line. What was understood is understood again from its own words.

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "core/assert.h"
#include "uring/daemon/option_table.h"
#include "uring/daemon/options.h"

using namespace virtproxy;

namespace {

ParseResult parse(const std::vector<std::string>& args) {
  std::vector<const char*> argv{"virtproxy"};
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  argv.push_back(nullptr);
  // No input reads a file of the machine.
  using Files = tl::expected<std::vector<ConfigText>, std::vector<Problem>>;
  return parse_options(
      static_cast<int>(argv.size()) - 1, argv.data(), [](const std::string&) -> Files {
        return tl::unexpected(std::vector<Problem>{{{"file", 0, 0}, "cannot be read", "give one"}});
      });
}

// Words that it would take long to guess, one byte each; the others stand for themselves. The
// corpus depends on their order: behind these come the options of the table that are not among
// them.
const std::vector<std::string> kFirstWords = {
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

const std::vector<std::string> kWords = [] {
  std::vector<std::string> words = kFirstWords;
  for (const OptionRow& row : option_table()) {
    const std::string word = "--" + std::string(row.name);
    if (!row.in(option_scope::kCommandLine)) continue;
    if (std::find(words.begin(), words.end(), word) == words.end()) words.push_back(word);
  }
  return words;
}();

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
  VP_ASSERT((exit.code == 1 || exit.code == kConfigError) && exit.to_stderr);
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

// What others can reach was asked for.
void check_listeners(const Options& options) {
  for (const ForwardSpec& forward : options.oforwards) {
    VP_ASSERT(!forward.listen.mode || *forward.listen.mode <= 0777);
    VP_ASSERT(forward.listen.allow_remote || forward.address.kind != Address::Kind::kTcp ||
              forward.address.host != "0.0.0.0");
  }
}

// The argument that a channel was given with gives that channel.
void check_again(const ChannelOptions& channel) {
  const ParseResult again = parse({"--allow-remote", "-c", channel.text});
  VP_ASSERT(again && again->channels.front().address == channel.address);
  VP_ASSERT(again->channels.front().transport == channel.transport);
}

void check_channel(const ChannelOptions& channel, uint64_t memory) {
  using namespace option_ranges;
  const ChannelSettings& of = channel.settings;
  VP_ASSERT(channel.max_streams >= 1 && channel.max_streams <= kMaxStreams);
  VP_ASSERT(of.window >= kMinWindow && of.window <= memory);
  VP_ASSERT(of.connect_timeout >= kMinConnectTimeout && of.connect_timeout <= kMaxConnectTimeout);
  VP_ASSERT(of.hold >= kMinHold && of.hold <= kMaxHold);
  VP_ASSERT(of.stall_timeout >= kMinStallTimeout && of.stall_timeout <= kMaxStallTimeout);
  VP_ASSERT(of.ack_timeout >= kMinAckTimeout && of.ack_timeout <= kMaxAckTimeout);
}

void check(const Options& options) {
  if (options.task == Task::kShowFeatures && options.channels.empty()) return;
  VP_ASSERT(!options.channels.empty() && options.channels.size() <= option_ranges::kMaxChannels);
  std::set<unsigned> ids;
  for (const ChannelOptions& channel : options.channels) {
    VP_ASSERT(ids.insert(channel.id).second && channel.id <= kMaxChannelId);
    check_channel(channel, options.memory);
    if (channel.text.find('\\') == std::string::npos) check_again(channel);  // else made printable
  }
  check_forwards(options.oforwards, ids);
  check_forwards(options.iforwards, ids);
  VP_ASSERT(options.process.threads >= option_ranges::kMinThreads &&
            options.process.threads <= option_ranges::kMaxThreads);
  VP_ASSERT(options.memory >= option_ranges::kMinMemory &&
            options.memory <= option_ranges::kMaxMemory);
  VP_ASSERT(options.process.drain_timeout >= option_ranges::kMinDrainTimeout);
  VP_ASSERT(options.process.drain_timeout <= option_ranges::kMaxDrainTimeout);
  check_listeners(options);
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
