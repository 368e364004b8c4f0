// System calls that the running daemon does not need are refused by the kernel (seccomp), whoever
// asks for them: what a peer's bytes could make of this process is bounded by the list in
// sandbox.cc, which was made by measuring.
//
//   what it never needs and an intruder wants  (execve, ptrace, io_uring_setup, …)  the process is
//       killed: it is not ours any more
//   anything else that is not on the list      fails with EPERM and is said in the log, once each:
//   a
//       library that learns a new call is no reason to cut off a guest
//
// The list depends on the command line: without a service to dial there is no socket(2), without a
// host name or a device no openat(2). Where channels and forwards may change while the process runs,
// it may read files and listen. It also depends on the driver that is in use. Operations that go through a ring are not seen here; the ring
// restricts them itself (io_uring_driver.h). Which files and ports a call that is allowed may reach, Landlock
// says (landlock.h).
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "uring/daemon/options.h"
#include "uring/io/open_driver.h"

namespace virtproxy {

class Sandbox {
 public:
  Sandbox();
  ~Sandbox();

  // Whether this build has one: sanitizers make calls of their own.
  static bool available();
  // For all threads of the process, those that exist and those to come.
  // The calls of these drivers are allowed, and not those of others.
  tl::expected<void, std::string> enter(const Options& options,
                                        const std::vector<DriverKind>& drivers);

  // What `needed` would do and the filter made from `at_start` does not allow, for people; empty if
  // nothing.
  static std::string lacks(const Options& at_start, const Options& needed);

  // Readable when a call was refused.
  int alarm() const { return alarm_; }
  // Says in the log what was refused since the last time, each call once in a life.
  void report();

 private:
  int alarm_;
};

}  // namespace virtproxy
