// What uring/io/epoll_driver.cc calls to wait, redirected here by the linker.
#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <cerrno>
#include <chrono>

#include "tests/sim/call_result.h"
#include "tests/sim/kernel_epoll.h"
#include "tests/sim/process.h"

using virtproxy::Instant;
using virtproxy::sim::as_libc_result;
using virtproxy::sim::FileRef;
using virtproxy::sim::KernelEpoll;
using virtproxy::sim::KernelTimer;
using virtproxy::sim::Process;
using virtproxy::sim::World;

namespace {

template <typename Kind>
std::shared_ptr<Kind> file_of(int fd) {
  const auto file = std::dynamic_pointer_cast<Kind>(Process::current()->get(fd));
  if (!file) World::current().fail("epoll", "a call for a descriptor of another kind");
  return file;
}

}  // namespace

extern "C" {

int __wrap_epoll_create1(int) { return Process::current()->open_epoll(); }

int __wrap_epoll_ctl(int epoll, int what, int fd, epoll_event* event) {
  const auto kernel = file_of<KernelEpoll>(epoll);
  const FileRef file = Process::current()->get(fd);
  const int result = file ? kernel->control(what, fd, file, event) : -EBADF;
  World::current().trace("epoll_ctl", fd, what, result);
  return as_libc_result(result);
}

int __wrap_epoll_wait(int epoll, epoll_event* events, int most, int timeout) {
  return as_libc_result(
      file_of<KernelEpoll>(epoll)->wait({events, static_cast<size_t>(most)}, timeout));
}

int __wrap_timerfd_create(int, int) {
  return Process::current()->add(std::make_shared<KernelTimer>());
}

int __wrap_timerfd_settime(int fd, int flags, const itimerspec* time, itimerspec*) {
  if ((flags & TFD_TIMER_ABSTIME) == 0) return as_libc_result(-EINVAL);
  const timespec& at = time->it_value;
  const Instant when = std::chrono::seconds(at.tv_sec) + std::chrono::nanoseconds(at.tv_nsec);
  file_of<KernelTimer>(fd)->set(when == Instant::zero() ? std::nullopt : std::optional(when));
  return 0;
}

}  // extern "C"
