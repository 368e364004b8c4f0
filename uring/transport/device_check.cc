#include "uring/transport/device_check.h"

#include <fmt/format.h>
#include <sys/sysmacros.h>

namespace virtproxy {
namespace {

// null, zero, full, random, kmsg and others of drivers/char/mem.c.
constexpr unsigned kMemoryDevices = 1;

}  // namespace

std::string_view name_of_type(mode_t mode) {
  if (S_ISREG(mode)) return "a regular file";
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  if (S_ISFIFO(mode)) return "a named pipe";
  return "a socket";
}

std::optional<std::string> device_fault(const struct stat& status) {
  if (!S_ISCHR(status.st_mode)) {
    return fmt::format("is {}, no character device{}", name_of_type(status.st_mode),
                       S_ISSOCK(status.st_mode)
                           ? ": use unix-connect"
                           : ": give a port such as /dev/virtio-ports/NAME or /dev/ttyS1");
  }
  if (major(status.st_rdev) == kMemoryDevices) {
    return "is a device of the kernel's memory, no port: give one such as /dev/virtio-ports/NAME "
           "or /dev/ttyS1";
  }
  return std::nullopt;
}

}  // namespace virtproxy
