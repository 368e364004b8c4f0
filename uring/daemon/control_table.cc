#include "uring/daemon/control_table.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/assert.h"
#include "uring/base/readable.h"
#include "uring/base/text.h"

namespace virtproxy {
namespace {

using Json = nlohmann::ordered_json;

std::string text_of(const ControlCell& cell, ColumnUnit unit) {
  if (const auto* text = std::get_if<std::string>(&cell)) {
    return text->empty() ? "-" : printable(*text);
  }
  if (const auto* yes = std::get_if<bool>(&cell)) return *yes ? "yes" : "no";
  const auto* number = std::get_if<uint64_t>(&cell);
  if (number == nullptr) return "-";
  switch (unit) {
    case ColumnUnit::kBytes:
      return readable_bytes(*number);
    case ColumnUnit::kSeconds:
      return readable_time(*number);
    case ColumnUnit::kNone:
      break;
  }
  return std::to_string(*number);
}

Json json_of(const ControlCell& cell, ColumnUnit unit) {
  if (const auto* text = std::get_if<std::string>(&cell)) return printable(*text);
  if (const auto* yes = std::get_if<bool>(&cell)) return *yes;
  const auto* number = std::get_if<uint64_t>(&cell);
  if (number == nullptr) return nullptr;
  if (unit == ColumnUnit::kSeconds) return static_cast<double>(*number) / 1000;
  return *number;
}

void check_rows(const ControlTable& table) {
  for (const auto& row : table.rows) VP_ASSERT(row.size() == table.columns.size());
}

Json object_of(const ControlTable& table, const std::vector<ControlCell>& row) {
  Json object = Json::object();
  for (size_t i = 0; i < table.columns.size(); ++i) {
    if (table.columns[i].place == ColumnPlace::kText) continue;
    object[std::string(table.columns[i].name)] = json_of(row[i], table.columns[i].unit);
  }
  return object;
}

void trim_end(std::string& line) { line.erase(line.find_last_not_of(' ') + 1); }

}  // namespace

std::vector<std::string_view> split_words(std::string_view line) {
  std::vector<std::string_view> words;
  while (!line.empty()) {
    const size_t begin = std::min(line.find_first_not_of(' '), line.size());
    line.remove_prefix(begin);
    const size_t end = std::min(line.find(' '), line.size());
    if (end > 0) words.push_back(line.substr(0, end));
    line.remove_prefix(end);
  }
  return words;
}

std::string utc_time(std::chrono::system_clock::time_point time) {
  using std::chrono::milliseconds;
  const auto since = std::chrono::duration_cast<milliseconds>(time.time_since_epoch()).count();
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z",
                     fmt::gmtime(static_cast<std::time_t>(since / 1000)), since % 1000);
}

std::string to_text(const ControlTable& table, TableShape shape) {
  check_rows(table);
  std::string text;
  std::vector<size_t> shown;  // columns
  for (size_t i = 0; i < table.columns.size(); ++i) {
    if (table.columns[i].place != ColumnPlace::kJson) shown.push_back(i);
  }
  if (shape == TableShape::kRecord) {
    size_t width = 0;
    for (const size_t i : shown) width = std::max(width, table.columns[i].name.size());
    for (const size_t i : shown) {
      const ControlColumn& column = table.columns[i];
      text += fmt::format("{:<{}}  {}\n", column.name, width,
                          text_of(table.rows.front()[i], column.unit));
    }
    return text + "\n";
  }
  std::vector<size_t> widths;
  std::vector<std::vector<std::string>> rows;
  for (const size_t i : shown) widths.push_back(table.columns[i].name.size());
  for (const auto& row : table.rows) {
    auto& cells = rows.emplace_back();
    for (size_t k = 0; k < shown.size(); ++k) {
      cells.push_back(text_of(row[shown[k]], table.columns[shown[k]].unit));
      widths[k] = std::max(widths[k], cells.back().size());
    }
  }
  const auto add_line = [&](auto&& cell) {
    std::string line;
    for (size_t k = 0; k < widths.size(); ++k) line += fmt::format("{:<{}}  ", cell(k), widths[k]);
    trim_end(line);
    text += line + "\n";
  };
  add_line([&](size_t k) { return table.columns[shown[k]].name; });
  for (const auto& row : rows) add_line([&](size_t k) { return std::string_view(row[k]); });
  return text + "\n";
}

std::string to_json(const ControlTable& table, TableShape shape) {
  check_rows(table);
  if (shape == TableShape::kRecord) return object_of(table, table.rows.front()).dump() + "\n\n";
  Json list = Json::array();
  for (const auto& row : table.rows) list.push_back(object_of(table, row));
  return list.dump() + "\n\n";
}

std::string note_answer(std::string_view text, bool json) {
  if (json) return Json{{"done", printable(text)}}.dump() + "\n\n";
  return printable(text) + "\n\n";
}

std::string verbatim_answer(std::string_view name, std::string_view text) {
  // A path of the command line may hold any bytes.
  return Json{{name, text}}.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n\n";
}

std::string error_answer(std::string_view text, bool json) {
  std::string shown;
  for (std::string_view rest = text; !rest.empty();) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    if (end > 0) shown += (shown.empty() ? "" : "\n") + printable(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  if (json) return Json{{"error", shown}}.dump() + "\n\n";
  return "error: " + shown + "\n\n";
}

}  // namespace virtproxy
