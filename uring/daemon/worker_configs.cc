#include "uring/daemon/worker_configs.h"

#include <sys/random.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "uring/daemon/allocator.h"

namespace virtproxy {
namespace {

uint64_t random_number() {
  uint64_t number = 0;
  while (getrandom(&number, sizeof number, 0) != sizeof number) {
  }
  return number;
}

}  // namespace

ChannelConfig channel_config(const ChannelOptions& spec) {
  ChannelConfig config;
  config.spec = spec;
  const ChannelSettings& settings = spec.settings;
  config.peers = {settings.peer_uids, settings.peer_gids, settings.peer_cids};
  config.memory = spec.memory;
  config.max_streams = spec.max_streams;
  config.window = static_cast<uint32_t>(settings.window);
  config.integrity = settings.integrity;
  config.protocol = settings.protocol;
  config.v1.hold = settings.hold;
  config.v1.stall_timeout = to_duration(settings.stall_timeout);
  config.v1.ack_timeout = to_duration(settings.ack_timeout);
  config.epoch_key = {random_number(), random_number()};
  config.number_key = {random_number(), random_number()};
  config.number_seed = random_number();
  config.release_memory = release_free_memory;
  config.share_stats = settings.share_stats;
  return config;
}

ForwardConfig forward_config(const Options& options, const ChannelOptions& channel) {
  ForwardConfig config;
  const auto of_this = [&](const ForwardSpec& forward) { return forward.id == channel.id; };
  std::copy_if(options.oforwards.begin(), options.oforwards.end(),
               std::back_inserter(config.oforwards), of_this);
  std::copy_if(options.iforwards.begin(), options.iforwards.end(),
               std::back_inserter(config.iforwards), of_this);
  config.connect_timeout = to_duration(channel.settings.connect_timeout);
  return config;
}

std::vector<WorkerConfig> worker_configs(const Options& options, const DriverFeatures& features) {
  const size_t count = std::min<size_t>(options.process.threads, options.channels.size());
  std::vector<WorkerConfig> workers(count);
  for (WorkerConfig& worker : workers) {
    worker.index = static_cast<size_t>(&worker - workers.data());
    worker.driver = options.process.driver;
    worker.features = features;
    worker.drain_timeout = to_duration(options.process.drain_timeout);
  }
  for (size_t i = 0; i < options.channels.size(); ++i) {
    WorkerConfig& worker = workers[i % count];
    ChannelConfig channel = channel_config(options.channels[i]);
    channel.first_buffer_group = static_cast<uint16_t>(2 * worker.channels.size());
    worker.channels.push_back(std::move(channel));
    worker.forwards.push_back(forward_config(options, options.channels[i]));
  }
  return workers;
}

tl::expected<void, std::string> check_config(const ChannelConfig& channel) {
  const auto checked = Channel::check(channel);
  if (checked) return {};
  return tl::unexpected("channel " + channel.spec.name + ": " + checked.error());
}

}  // namespace virtproxy
