// Any configuration files: they are either understood, and then printed and read again as the same,
// or refused with a line for each error. A NUL byte divides one file from the next; what is behind
// a byte 1 is an option of the command line.

#include <string>
#include <vector>

#include "core/assert.h"
#include "uring/daemon/options.h"

using namespace virtproxy;

namespace {

ParseResult parse(const std::vector<ConfigText>& files, const std::vector<std::string>& args) {
  std::vector<const char*> argv{"virtproxy", "--config", "f0"};
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  argv.push_back(nullptr);
  return parse_options(static_cast<int>(argv.size()) - 1, argv.data(),
                       [&](const std::string&) { return files; });
}

void check_refusal(const ParseExit& exit) {
  VP_ASSERT(!exit.text.empty() && exit.text.back() == '\n');
  if (exit.code == 0) return;
  VP_ASSERT(exit.to_stderr && (exit.code == kConfigError || exit.code == 1));
  size_t lines = 0;
  for (size_t at = 0; at < exit.text.size(); ++lines) {
    const size_t end = exit.text.find('\n', at);
    const std::string_view line = std::string_view(exit.text).substr(at, end - at);
    VP_ASSERT(line.starts_with("virtproxy: ") || line.starts_with("f"));
    for (const char c : line) VP_ASSERT(c >= ' ' && c <= '~');
    at = end + 1;
  }
  VP_ASSERT(lines <= 101);
}

void check_limits(const Options& options) {
  using namespace option_ranges;
  VP_ASSERT(!options.channels.empty() && options.channels.size() <= kMaxChannels);
  uint64_t memory = 0;
  for (const ChannelOptions& channel : options.channels) {
    memory += channel.memory;
    VP_ASSERT(channel.max_streams <= kMaxStreams);
    VP_ASSERT(channel.settings.window >= kMinWindow && channel.settings.window <= kMaxWindow);
    VP_ASSERT(channel.settings.hold >= kMinHold && channel.settings.hold <= kMaxHold);
    VP_ASSERT(!channel.name.empty() && channel.name.size() <= kMaxChannelName);
  }
  VP_ASSERT(memory <= options.memory);
  for (const auto* forwards : {&options.oforwards, &options.iforwards}) {
    VP_ASSERT(forwards->size() <= kMaxForwards);
    for (const ForwardSpec& forward : *forwards) {
      VP_ASSERT(!forward.service.empty() && forward.service.size() <= kMaxServiceName);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<ConfigText> files{{"f0", {}}};
  std::vector<std::string> args;
  for (size_t i = 0; i < size; ++i) {
    if (data[i] == 1) {
      args.emplace_back();
    } else if (!args.empty()) {
      if (data[i] != 0) args.back() += static_cast<char>(data[i]);
    } else if (data[i] == 0) {
      files.push_back({"f" + std::to_string(files.size()), {}});
    } else {
      files.back().text += static_cast<char>(data[i]);
    }
  }
  const ParseResult parsed = parse(files, args);
  if (!parsed) {
    check_refusal(parsed.error());
    return 0;
  }
  if (parsed->task == Task::kShowFeatures && parsed->channels.empty()) return 0;
  check_limits(*parsed);
  const std::string printed = print_config(*parsed);
  const ParseResult again = parse({{"f0", printed}}, {});
  VP_ASSERT(again);
  VP_ASSERT(print_config(*again) == printed);
  VP_ASSERT(again->memory == parsed->memory);
  VP_ASSERT(again->channels.size() == parsed->channels.size());
  return 0;
}
