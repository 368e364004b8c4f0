// Asks a running daemon over its control socket.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace virtproxy::ctl {

inline constexpr std::string_view kDefaultControl = "/run/virtproxy/control.sock";

// Sends one command and returns its answer without the empty line behind it. Waits for at most ten
// seconds at a time for the daemon to go on. An error is one line: what is wrong with the socket, or
// what the daemon refused and why.
tl::expected<std::string, std::string> ask_daemon(const std::string& socket_path,
                                                  const std::string& command);

}  // namespace virtproxy::ctl
