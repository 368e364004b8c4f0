// toml++ as the programs here use it: without its exceptions, and where text of a file cannot make
// the process end. Some text reaches its assertions (with version 3.3 "[`"), which would abort:
// here they end the parsing instead.
//
// Large to compile: for the one file of a program that reads its configuration.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace virtproxy {

struct TomlAssertion {};
[[noreturn]] inline void toml_assertion_failed() { throw TomlAssertion(); }

}  // namespace virtproxy

// With NDEBUG the library would take what it asserts for granted.
#pragma push_macro("NDEBUG")
#undef NDEBUG
#define TOML_ASSERT(expr) ((expr) ? static_cast<void>(0) : ::virtproxy::toml_assertion_failed())
#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#define TOML_UNRELEASED_FEATURES 0
#define TOML_MAX_NESTED_VALUES 16
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#endif
#include <toml++/toml.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#pragma pop_macro("NDEBUG")

namespace virtproxy {

// True if a character outside of ASCII stands where the library asks its tables of Unicode, which
// have holes that it takes to be unreachable (version 3.3): outside of quotes and comments, where
// TOML has no use for it, and in strings of several lines, where no value of a configuration needs
// it.
inline bool has_stray_character(std::string_view text) {
  enum class Where { kOutside, kComment, kQuoted, kManyLines };
  Where where = Where::kOutside;
  char quote = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    const bool triple = at + 2 < text.size() && text[at + 1] == c && text[at + 2] == c;
    switch (where) {
      case Where::kOutside:
        if ((static_cast<unsigned char>(c) & 0x80) != 0) return true;
        if (c == '#') where = Where::kComment;
        if (c != '"' && c != '\'') break;
        quote = c;
        where = triple ? Where::kManyLines : Where::kQuoted;
        if (triple) at += 2;
        break;
      case Where::kComment:
        if (c == '\n') where = Where::kOutside;
        break;
      case Where::kQuoted:
        if (c == '\\' && quote == '"') {
          ++at;
        } else if (c == quote || c == '\n') {
          where = Where::kOutside;
        }
        break;
      case Where::kManyLines:
        if ((static_cast<unsigned char>(c) & 0x80) != 0) return true;
        if (c == '\\' && quote == '"') {
          ++at;
        } else if (c == quote && triple) {
          at += 2;
          where = Where::kOutside;
        }
        break;
    }
  }
  return false;
}

inline constexpr size_t kMaxKeyParts = 64;

// Both count from 1; the column is in bytes.
struct TomlPosition {
  unsigned line = 1;
  unsigned column = 1;
};

// Where a key has more than kMaxKeyParts parts. The library makes a table of each part, one in the
// other, and bounds only what stands in brackets: a long key would exhaust the stack. So this is to
// be asked before it is given the text. A run of parts with a dot between each two counts, whether
// it is a key or not: no value of a configuration is such a run.
inline std::optional<TomlPosition> find_deep_key(std::string_view text) {
  TomlPosition at;
  size_t dots = 0;
  bool part = false;     // something since the last dot
  bool comment = false;  // to the end of the line
  for (const char c : text) {
    if (c == '\n') {
      ++at.line;
      at.column = 0;
      dots = 0;
      part = comment = false;
    } else if (!comment && c == '.') {
      dots = part ? dots + 1 : 0;
      part = false;
      if (dots >= kMaxKeyParts) return at;
    } else if (c == '#') {
      comment = true;
    } else if (c == '=' || c == ',' || c == ':' || c == '/') {
      dots = 0;
      part = false;
    } else if (c != ' ' && c != '\t') {
      part = true;
    }
    ++at.column;
  }
  return std::nullopt;
}

// The text with a letter for each character outside of ASCII, so that lines and columns are the
// same.
inline std::string without_unicode(std::string_view text) {
  std::string letters;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) letters += c;
    if (byte >= 0xc0) letters += 'x';
  }
  return letters;
}

// Nothing where the library cannot be given the text, or one of its assertions failed.
inline std::optional<toml::parse_result> try_parse_toml(std::string_view text) {
  if (has_stray_character(text)) return std::nullopt;
  try {
    // After an error the library reads on without regard to quotes. So it is given characters
    // outside of ASCII only in a text that is right without them.
    const std::string letters = without_unicode(text);
    if (letters != text) {
      toml::parse_result result = toml::parse(letters);
      if (!result) return result;
    }
    return toml::parse(text);
  } catch (const TomlAssertion&) {
    return std::nullopt;
  }
}

// The line at which try_parse_toml() gives up `text`: it reads from the beginning, so the shortest
// beginning of whole lines that it gives up ends with that line.
inline unsigned toml_failed_line(std::string_view text) {
  std::vector<size_t> ends;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '\n') ends.push_back(at + 1);
  }
  ends.push_back(text.size());
  size_t low = 0;
  size_t high = ends.size() - 1;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (try_parse_toml(text.substr(0, ends[middle]))) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return static_cast<unsigned>(low + 1);
}

}  // namespace virtproxy
