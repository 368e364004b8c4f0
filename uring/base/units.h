// Sizes and times as messages show them.
#pragma once

#include <cstdint>
#include <string>

namespace virtproxy {

// 268435456 as 256M.
std::string format_size(uint64_t bytes);

// 0.5 as 0.5, 60.0 as 60.
std::string format_seconds(double seconds);

}  // namespace virtproxy
