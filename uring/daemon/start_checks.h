// What is wrong with a start although the command line can be read: paths that are not what they
// are used as, channels that are named twice by different paths, channels that nothing can pass
// over. What is not there yet is no fault: it is waited for.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "uring/daemon/options.h"

namespace virtproxy {

// Looks at the paths of channels and services.
tl::expected<void, std::string> check_paths(const Options& options);

// What the operator may think is guarded and is not, one line each.
std::vector<std::string> unguarded(const Options& options);

// A line where a mode or an owner was given and nothing has one.
std::vector<std::string> idle_modes(const Options& options);

// A line for each channel without a forward.
std::vector<std::string> idle_channels(const Options& options);

}  // namespace virtproxy
