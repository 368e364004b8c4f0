// Commands that go on until they are ended: `events --follow` and `top`.
#pragma once

#include <string>
#include <tl/expected.hpp>

namespace virtproxy::ctl {

using Shown = tl::expected<std::string, std::string>;  // what is left to print, or what is wrong

// Prints the events there are, and each one that comes, as text or as one JSON object a line. Returns
// when the daemon is gone or nothing reads standard output.
Shown follow_events(const std::string& socket_path, const std::string& channel, bool json);

// A table of the busiest streams that is renewed each second, until q or the end of standard input.
// Without a terminal on standard output it is printed once.
Shown top(const std::string& socket_path, const std::string& sort);

}  // namespace virtproxy::ctl
