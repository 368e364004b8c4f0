// Text that came from outside, made fit for one line of a message.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace virtproxy {

// The text with every byte that does not print, and every non-ASCII byte, as \xNN.
std::string printable(std::string_view text);

// The same in single quotes.
std::string in_quotes(std::string_view text);

// Why a call that makes `path` failed. ENOENT and ENOTDIR are about its directory, which
// is named as `path` spells it.
std::string creation_fault(std::string_view path, int error);
// True if there is a file at `path` that is not a socket. connect(2) fails with ECONNREFUSED then,
// as it does if nobody listens on a socket.
bool is_other_than_socket(const std::string& path);
// The reason, for a message, why connect(2) to the unix socket at `path` failed with `error`.
std::string connect_fault(const std::string& path, int error);

// Of the words of a command line that no option took, in their order, the one to complain about:
// the first that is not "--". Empty without any.
std::string first_extra(const std::vector<std::string>& extras);
// "unknown option: --x" or "unexpected argument: x", of such a word.
std::string extra_fault(const std::string& extra);

// The number of bytes that are inserted, left out or replaced to make one of the other
// (Levenshtein's distance); takes time by the product of the lengths.
size_t edit_distance(std::string_view one, std::string_view other);

// Of `words`, the one that `given` probably means: it begins so, or differs by two letters at most.
// Empty where there is none.
std::string_view nearest_word(std::string_view given, const std::vector<std::string_view>& words);
// ": the nearest is NAME" for the end of a message, `prefix` before the name; empty without one.
std::string nearest_hint(std::string_view given, const std::vector<std::string_view>& words,
                         std::string_view prefix = {});
// The same for a misspelt "--option" or "--option=value" among `names`, which are without dashes.
// Empty for any other word.
std::string nearest_option(std::string_view given, const std::vector<std::string_view>& names);

}  // namespace virtproxy
