// Ways of working that a driver can do without. Each can be switched off by name; what the kernel
// refuses is switched off with a message.
//
//   single-issuer, coop-taskrun, defer-taskrun   completions run when this thread asks for them, in
//                     batches, instead of interrupting it
//   registered-ring   the ring's own descriptor is looked up without reference counting
//   registered-files  the same for channel descriptors, which see one or two operations every turn;
//                     client descriptors come and go, and registering each costs more than it saves
//   provided-buffers  a buffer is picked when bytes are there: ten thousand idle clients pin no
//                     buffer. The buffer ring is registered memory shared with the kernel.
//   poll-first        a receive that expects to wait does not try in vain first
//   multishot-accept  one request accepts any number of clients
//   skip-success      the success of a small send that nothing follows from ends no wait; it is
//                     noted when something else does. Saves half the turns of a message.
//   busy-poll         while one conversation goes back and forth, wait() spins for a moment before
//                     it sleeps (busy_poll.h); it needs skip-success
//   splice            bulk payload passes from socket to socket by way of pipes (pipes.h)
//   no-iowait         a thread that waits for its ring is idle to the kernel's accounts. Without it
//                     (before Linux 6.15) one that has nothing to do counts as waiting for a disk.
//   restrictions      the ring takes the operations of its driver and no others, whoever asks:
//                     system call filters do not see what goes through a ring
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

namespace virtproxy {

struct DriverFeatures {
  bool single_issuer = true;
  bool coop_taskrun = true;
  bool defer_taskrun = true;
  bool registered_ring = true;
  bool registered_files = true;
  bool provided_buffers = true;
  bool poll_first = true;
  bool multishot_accept = true;
  bool skip_success = true;
  bool busy_poll = true;
  bool splice = true;
  bool no_iowait = true;
  bool restrictions = true;

  struct Name {
    std::string_view name;
    bool DriverFeatures::*member;
  };
  static const std::vector<Name>& names();
  // Switches off the features of a comma-separated list; an error is the name that is unknown.
  tl::expected<void, std::string> disable(std::string_view list);
};

}  // namespace virtproxy
