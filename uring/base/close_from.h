// What a process that was forked does not keep of the descriptors of the other one.
#pragma once

namespace virtproxy {

// Closes every descriptor from `lowest` on, in whatever way the kernel has. While this process has
// one thread.
void close_from(int lowest);

}  // namespace virtproxy
