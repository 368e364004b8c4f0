// Reads files that people write, such as a configuration.
#pragma once

#include <cstddef>
#include <string>
#include <tl/expected.hpp>

namespace virtproxy {

// All of a file of at most `most` bytes; otherwise an errno: EISDIR of a directory, EFBIG of a
// file, device or pipe that has more. Waits for the writer of a pipe, as of a shell's <(…), but not
// for a pipe to get one.
tl::expected<std::string, int> read_small_file(const std::string& path, size_t most);

}  // namespace virtproxy
