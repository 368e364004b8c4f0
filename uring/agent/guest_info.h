// The methods of the guest that read what the kernel and /etc know. None of them takes a path.
#pragma once

#include <cstdint>

#include "core/agent/conversation.h"

namespace virtproxy::agent {

Result host_name();
Result os_info();
Result time_zone();
Result users();
Result load();
Result vcpus();
Result network_interfaces();
// May wait for a server or a disk: for a child.
Result file_systems();
// The end of the kernel's log, `bytes` of it.
Result dmesg(size_t bytes);

// Nanoseconds since 1970.
int64_t wall_clock();
// To `time`, or to that of the hardware clock. Errors: kBadArgument for a jump of more than ten
// years.
Result set_time(const Json& arguments);
// Of all file systems, in a child.
Result trim(uint64_t minimum);

}  // namespace virtproxy::agent
