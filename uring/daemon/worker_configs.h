// From options to what the workers are made of.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "uring/daemon/options.h"
#include "uring/daemon/worker.h"
#include "uring/io/driver_features.h"

namespace virtproxy {

// With random keys of its own.
ChannelConfig channel_config(const ChannelOptions& channel);

// The forwards of one channel.
ForwardConfig forward_config(const Options& options, const ChannelOptions& channel);

// The channels divided among as many workers as there are threads, or channels if they are fewer.
std::vector<WorkerConfig> worker_configs(const Options& options, const DriverFeatures& features);

// What a channel needs of its memory. The error names the channel.
tl::expected<void, std::string> check_config(const ChannelConfig& channel);

}  // namespace virtproxy
