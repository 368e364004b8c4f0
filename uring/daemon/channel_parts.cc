#include "uring/daemon/channel_parts.h"

namespace virtproxy {
namespace {

uint64_t value(const std::map<std::string, uint64_t>& values, const std::string& word) {
  const auto found = values.find(word);
  return found == values.end() ? 0 : found->second;
}

}  // namespace

void StatWords::visit(const StatInfo&, const StatSample& sample) {
  if (sample.word.empty()) return;
  const std::string word(sample.word);
  totals_[word] += sample.value;
  for (const StatLabel& label : sample.labels) {
    if (label.name == "forward") by_forward_[std::string(label.value)][word] += sample.value;
  }
}

uint64_t StatWords::total(const std::string& word) const { return value(totals_, word); }

uint64_t StatWords::of(const std::string& forward, const std::string& word) const {
  const auto found = by_forward_.find(forward);
  return found == by_forward_.end() ? 0 : value(found->second, word);
}

std::vector<ChannelPart> collect_channels(Worker::Channels channels, Instant) {
  std::vector<ChannelPart> parts;
  for (const auto& channel : channels) {
    channel->visit_stats(parts.emplace_back(ChannelPart{channel->label(), {}}).words);
  }
  return parts;
}

std::vector<ChannelPart> collect_channel(Worker::Channels channels, const std::string& name) {
  std::vector<ChannelPart> parts;
  for (const auto& channel : channels) {
    if (channel->label() != name) continue;
    channel->visit_stats(parts.emplace_back(ChannelPart{name, {}}).words);
  }
  return parts;
}

const StatWords& words_of_channel(const std::vector<std::vector<ChannelPart>>& parts,
                                  const std::string& name) {
  static const StatWords kNone;
  for (const auto& part : parts) {
    for (const ChannelPart& channel : part) {
      if (channel.name == name) return channel.words;
    }
  }
  return kNone;
}

}  // namespace virtproxy
