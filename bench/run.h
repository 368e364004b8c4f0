// Supervises one run: starts the client and the sink on threads of their own, moves the run through
// its phases (open, warm up, measure, drain), samples counters meanwhile and notices when nothing
// moves any more. It sleeps nearly all the time.
#pragma once

#include "plan.h"
#include "result.h"

namespace virtproxy::bench {

// Throws Failure for what cannot even be started.
RunResult run_plan(const Plan& plan);

// The sink alone, until SIGINT, SIGTERM or `duration` (0: none) seconds.
Outcome serve(const std::vector<Address>& addresses, const SocketOptions& options,
              bool http_connect, double duration, const std::vector<int>& cpus);

}  // namespace virtproxy::bench
