// What a worker tells of its channels for a control command: their statistics, by the words of
// SIGUSR1's line.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "uring/daemon/worker.h"
#include "uring/mux/stats.h"

namespace virtproxy {

// The values of one channel, those of one word added up; and the same for each forward.
class StatWords final : public StatVisitor {
 public:
  void visit(const StatInfo& info, const StatSample& sample) override;
  uint64_t total(const std::string& word) const;
  uint64_t of(const std::string& forward, const std::string& word) const;

 private:
  using Values = std::map<std::string, uint64_t>;

  Values totals_;
  std::map<std::string, Values> by_forward_;
};

// A channel as its worker found it.
struct ChannelPart {
  std::string name;
  StatWords words;
};

// In a worker's thread. The second one: those of the name, of which there is at most one.
std::vector<ChannelPart> collect_channels(Worker::Channels channels, Instant now);
std::vector<ChannelPart> collect_channel(Worker::Channels channels, const std::string& name);

// Of a channel of the process; empty where its worker has none of that name.
const StatWords& words_of_channel(const std::vector<std::vector<ChannelPart>>& parts,
                                  const std::string& name);

}  // namespace virtproxy
