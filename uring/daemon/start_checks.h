// What is wrong with a start although the command line can be read: paths that are not what they
// are used as, channels that are named twice by different paths, channels that nothing can pass
// over. What is not there yet is no fault: it is waited for.
#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "uring/daemon/options.h"

namespace virtproxy {

// The fault, as the rest of a line after the path: it is no character device, or one that carries
// nothing.
std::optional<std::string> device_fault(const struct stat& status);

// Looks at the paths of channels and services.
tl::expected<void, std::string> check_paths(const Options& options);

// A line for each channel without a forward.
std::vector<std::string> idle_channels(const Options& options);

}  // namespace virtproxy
