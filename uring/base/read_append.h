// A read into a string, through a buffer that is not written first.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>

namespace virtproxy {

// The most that one read_append() reads, in bytes.
inline constexpr size_t kMostReadAppend = 64 * 1024;

// Reads once, at most `most` bytes (and kMostReadAppend), behind what `text` holds. Result and errno
// are those of read(2); `text` is unchanged unless the result is positive.
//
// A local array of that size would be filled with zeros at every call, before a byte is read:
// release builds are compiled with -ftrivial-auto-var-init=zero. The buffer is one of the thread.
ssize_t read_append(int fd, std::string& text, size_t most = kMostReadAppend);

}  // namespace virtproxy
