// Everything that the process listens on: bound by itself, or passed by the service manager.
//
// A service manager passes listening sockets by LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, as
// sd_listen_fds(3) describes. Its socket units name them (FileDescriptorName=):
//
//   SERVICE           the listener of -o SERVICE
//   SERVICE@CHANNEL   the one of that channel
//   @CHANNEL          the channel's own listener
//
// The address of a passed socket must be that of the option, so that a unit and a command line
// cannot contradict each other. It also decides between several listeners of one name, and alone
// where a name is one that systemd gives by default (unknown, *.socket).
//
// Sockets that the process bound itself are given to the manager to keep, if it keeps any. The next
// process gets them back and so refuses no client. One whose address is not wanted any more is
// closed. The same holds for the sockets of the sources of log lines, under a name of their own.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "uring/daemon/service_manager.h"
#include "uring/daemon/worker.h"
#include "uring/net/sockets.h"

namespace virtproxy {

// Fills `listen_sockets` of each worker. Reads and removes LISTEN_PID, LISTEN_FDS and
// LISTEN_FDNAMES. Call while there are privileges for binding and before any thread starts. The
// result is what was stored for the sources, for each of them: those that have none are not bound.
tl::expected<std::vector<Listening>, std::string> get_listen_sockets(
    std::vector<WorkerConfig>& workers, ServiceManager& manager,
    const std::vector<logs::SourceSpec>& sources);

// Call after privileges were given up. SO_PEERCRED reports to a client of a unix socket the user
// who called listen(2) last. The other end of a channel may compare that user with an access list,
// so it must be the one as whom this process runs.
void listen_as_this_user(const std::vector<WorkerConfig>& workers);

}  // namespace virtproxy
