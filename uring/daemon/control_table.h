// What a control command answers: a table, shown as text for a person or as JSON for a program.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace virtproxy {

// How the numbers of a column are meant. JSON has them as they are, text in a readable size.
enum class ColumnUnit : uint8_t {
  kNone,
  kBytes,
  kSeconds,  // the value is in milliseconds, JSON has seconds
};

enum class ColumnPlace : uint8_t {
  kEverywhere,
  kJson,  // alone: a line of text has no room for it
  kText,  // alone: JSON has its parts in other columns
};

struct ControlColumn {
  std::string_view name;  // lower case, words joined by _
  ColumnUnit unit = ColumnUnit::kNone;
  ColumnPlace place = ColumnPlace::kEverywhere;
};

// monostate: there is no value ("-", null).
using ControlCell = std::variant<std::monostate, std::string, uint64_t, bool>;
inline ControlCell cell_of(const std::optional<uint64_t>& number) {
  return number ? ControlCell(*number) : ControlCell();
}
inline ControlCell cell_of(const std::optional<std::string>& text) {
  return text ? ControlCell(*text) : ControlCell();
}

struct ControlTable {
  std::vector<ControlColumn> columns;
  std::vector<std::vector<ControlCell>> rows;  // each as long as columns
};

// Both end with an empty line. Control characters of a text come out as \xNN, so that no name can
// start a line of its own.
enum class TableShape : uint8_t {
  kRows,    // a line for each row below one of names; JSON: a list of objects
  kRecord,  // one row: a line for each column; JSON: an object
};
std::string to_text(const ControlTable& table, TableShape shape);
std::string to_json(const ControlTable& table, TableShape shape);

// An answer without a table.
std::string note_answer(std::string_view text, bool json);  // {"done": …}
// In JSON alone: {"NAME": TEXT} with the line ends of the text.
std::string verbatim_answer(std::string_view name, std::string_view text);
// {"error": …}; `text` may have several lines.
std::string error_answer(std::string_view text, bool json);

// 2026-11-22T13:45:01.123Z
std::string utc_time(std::chrono::system_clock::time_point time);

// The words of a line, separated by spaces. Views of it.
std::vector<std::string_view> split_words(std::string_view line);

}  // namespace virtproxy
