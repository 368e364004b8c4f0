// What a path has to be to be a channel's device.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

namespace virtproxy {

// For messages: a regular file, a directory, a socket.
std::string_view name_of_type(mode_t mode);

// The fault, as the rest of a line after the path: it is no character device, or one that carries
// nothing.
std::optional<std::string> device_fault(const struct stat& status);

}  // namespace virtproxy
