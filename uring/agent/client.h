// The client: virtagent call, get, put and events.
#pragma once

#include "uring/agent/options.h"

namespace virtproxy::agent {

// The exit code: 0 if the call was answered, 1 for an error of the other end or on the way.
int run_client(const ClientOptions& options);

}  // namespace virtproxy::agent
