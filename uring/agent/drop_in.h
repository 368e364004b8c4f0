// The drop-in of virtagent.service for what an operator allows: its default has no capability, and
// what is allowed needs some.
#pragma once

#include <string>

#include "uring/agent/options.h"

namespace virtproxy::agent {

// Text of a file for virtagent.service.d/. It gives each allowed method what it needs and nothing
// else. An error names a directory that systemd would read as something else.
tl::expected<std::string, std::string> drop_in(const Rules& rules);

}  // namespace virtproxy::agent
