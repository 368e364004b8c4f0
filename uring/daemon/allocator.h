// Which allocator stands behind operator new, as found by asking it.
#pragma once

#include <string>

namespace virtproxy {

// "mimalloc 2.0.9" when a fresh object really lies in its heap, else "the C library's".
std::string allocator_in_use();

// Call before the first thread: settles what the allocator would otherwise ask of the system later, when
// the sandbox is up.
void prepare_allocator();

// Returns free memory of the calling thread's heap to the system.
void release_free_memory();

}  // namespace virtproxy
