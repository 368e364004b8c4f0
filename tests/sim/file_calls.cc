// The calls for regular files and for the eventfd of a mailbox, redirected here by the linker.
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "tests/sim/call_result.h"
#include "tests/sim/disk.h"
#include "tests/sim/process.h"

using virtproxy::sim::as_libc_result;
using virtproxy::sim::Disk;
using virtproxy::sim::DiskFile;
using virtproxy::sim::EventCounter;
using virtproxy::sim::Process;
using virtproxy::sim::World;

namespace {

Disk* disk_of(int fd) {
  Process* process = Process::owner_of(fd);
  const auto file = process ? std::dynamic_pointer_cast<DiskFile>(process->get(fd)) : nullptr;
  return file ? &file->disk() : nullptr;
}

}  // namespace

extern "C" {

ssize_t __real_pread(int fd, void* to, size_t size, off_t offset);
ssize_t __real_pwrite(int fd, const void* from, size_t size, off_t offset);
int __real_fdatasync(int fd);
int __real_eventfd(unsigned count, int flags);

int __wrap_eventfd(unsigned count, int flags) {
  Process* process = Process::current();
  if (process == nullptr) return __real_eventfd(count, flags);
  if ((flags & EFD_NONBLOCK) == 0) World::current().fail("blocking", "an eventfd that blocks");
  if (process->dead()) return as_libc_result(-EMFILE);
  return process->add(std::make_shared<EventCounter>());
}

ssize_t __wrap_pread(int fd, void* to, size_t size, off_t offset) {
  if (Process::owner_of(fd) == nullptr) return __real_pread(fd, to, size, offset);
  const Disk* disk = disk_of(fd);
  if (disk == nullptr) return as_libc_result(-EBADF);
  return disk->read({static_cast<std::byte*>(to), size}, static_cast<uint64_t>(offset));
}

ssize_t __wrap_pwrite(int fd, const void* from, size_t size, off_t offset) {
  if (Process::owner_of(fd) == nullptr) return __real_pwrite(fd, from, size, offset);
  Disk* disk = disk_of(fd);
  if (disk == nullptr) return as_libc_result(-EBADF);
  return as_libc_result(
      disk->write({static_cast<const std::byte*>(from), size}, static_cast<uint64_t>(offset)));
}

int __wrap_fdatasync(int fd) {
  if (Process::owner_of(fd) == nullptr) return __real_fdatasync(fd);
  Disk* disk = disk_of(fd);
  return static_cast<int>(as_libc_result(disk == nullptr ? -EBADF : disk->sync()));
}

}  // extern "C"
