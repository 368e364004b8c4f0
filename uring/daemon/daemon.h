// The process: workers with their channels, the limits divided among them, and the signals.
//
//   SIGTERM, SIGINT   drain and exit 0; a second one cuts the drain short
//   SIGHUP            with a configuration file: reads it again (reload.h)
//   SIGUSR1           one line of stats for every channel, and one for the process
#pragma once

#include <functional>

#include "uring/daemon/options.h"
#include "uring/io/driver_features.h"

namespace virtproxy {

// What is wrong with the options besides what reading them shows. Opens nothing.
tl::expected<void, std::string> check_daemon(const Options& options);

// Runs until stopped by a signal, with files and ports confined if `landlock`. `read` reads the options
// again, for a reload. Returns the exit code.
int run_daemon(const Options& options, const DriverFeatures& features, bool landlock,
               std::function<ParseResult()> read);

}  // namespace virtproxy
