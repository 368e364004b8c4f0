// Numbers as tables show them to a person.
#pragma once

#include <cstdint>
#include <string>

namespace virtproxy {

// "950", "12.3K", "4.0M": at most five characters below 10^15.
std::string readable_bytes(uint64_t bytes);
// "250ms", "12.0s", "4m05s", "3h12m", "15d04h".
std::string readable_time(uint64_t milliseconds);

}  // namespace virtproxy
