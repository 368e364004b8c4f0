// Which driver a thread gets.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "uring/io/driver.h"

namespace virtproxy {

enum class DriverKind : uint8_t { kIoUring, kEpoll };
std::string_view driver_name(DriverKind kind);

// kAuto: io_uring, and where it is refused or too old, epoll.
enum class DriverChoice : uint8_t { kAuto, kIoUring, kEpoll };

struct OpenedDriver {
  std::unique_ptr<Driver> driver;
  DriverKind kind{};
  std::vector<std::string> warnings;  // of what is done without, a line each
};

// Must be called on the thread that will use it. `in_flight` bounds the operations in flight. An
// error says what to do about it.
tl::expected<OpenedDriver, std::string> open_driver(DriverChoice choice, unsigned in_flight,
                                                    const DriverFeatures& wanted);

}  // namespace virtproxy
