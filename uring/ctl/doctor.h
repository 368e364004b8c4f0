// `doctor`: looks for what keeps virtproxy from working on this machine, and says what to do about it.
// Works with and without a running daemon. Opens no channel: QEMU's sockets take one client.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <vector>

namespace virtproxy::ctl {

struct Examination {
  std::string control;                    // the daemon's control socket
  bool control_must_answer = false;       // else it need not be there
  std::vector<std::string> transports{};  // as behind -c; without a daemon, what is to be looked at
  std::string log{};  // a file with lines of a daemon's log, - for standard input
};

struct Diagnosis {
  std::string text;
  bool sound = true;  // nothing has to be done
};

// An error says what could not be read.
tl::expected<Diagnosis, std::string> examine(const Examination& examination);

}  // namespace virtproxy::ctl
