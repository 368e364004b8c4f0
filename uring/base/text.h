// Text that came from outside, made fit for one line of a message.
#pragma once

#include <string>
#include <string_view>

namespace virtproxy {

// The text with every byte that does not print, and every non-ASCII byte, as \xNN.
std::string printable(std::string_view text);

// The same in single quotes.
std::string in_quotes(std::string_view text);

}  // namespace virtproxy
