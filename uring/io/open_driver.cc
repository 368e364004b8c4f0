#include "uring/io/open_driver.h"

#include <utility>

#include "uring/io/epoll_driver.h"
#include "uring/io/io_uring_driver.h"

namespace virtproxy {
namespace {

tl::expected<OpenedDriver, std::string> open_io_uring(unsigned in_flight,
                                                      const DriverFeatures& wanted) {
  auto ring = IoUringDriver::open(in_flight, wanted);
  if (!ring) return tl::unexpected(ring.error());
  if (wanted.restrictions && !(*ring)->features().restrictions) {
    return tl::unexpected<std::string>(
        "the kernel refuses to restrict the ring to the operations that are needed: allow "
        "io_uring_register in the container's profile, or give --disable restrictions to go on with "
        "a ring that an intruder could use for any operation");
  }
  OpenedDriver opened;
  opened.kind = DriverKind::kIoUring;
  if (!(*ring)->refused().empty()) {
    opened.warnings.push_back("this kernel lacks or refuses: " + (*ring)->refused() +
                              "; going on without");
  }
  if ((*ring)->reduced()) {
    opened.warnings.emplace_back(
        "little lockable memory: going on with a smaller ring (raise RLIMIT_MEMLOCK: ulimit -l, "
        "LimitMEMLOCK=)");
  }
  opened.driver = *std::move(ring);
  return opened;
}

tl::expected<OpenedDriver, std::string> open_epoll(const DriverFeatures& wanted) {
  auto epoll = EpollDriver::open(wanted);
  if (!epoll) return tl::unexpected(epoll.error());
  OpenedDriver opened;
  opened.kind = DriverKind::kEpoll;
  opened.driver = *std::move(epoll);
  return opened;
}

}  // namespace

std::string_view driver_name(DriverKind kind) {
  return kind == DriverKind::kIoUring ? "io_uring" : "epoll";
}

tl::expected<OpenedDriver, std::string> open_driver(DriverChoice choice, unsigned in_flight,
                                                    const DriverFeatures& wanted) {
  if (choice == DriverChoice::kEpoll) return open_epoll(wanted);
  auto ring = open_io_uring(in_flight, wanted);
  if (ring || choice == DriverChoice::kIoUring) return ring;
  auto epoll = open_epoll(wanted);
  if (epoll) {
    epoll->warnings.push_back("going on with epoll (--driver epoll asks for it): " + ring.error());
  }
  return epoll;
}

}  // namespace virtproxy
