#include "uring/daemon/control_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

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

Json object_of(const ControlTable& table, const std::vector<ControlCell>& row) {
  Json object = Json::object();
  for (size_t i = 0; i < table.columns.size(); ++i) {
    object[std::string(table.columns[i].name)] = json_of(row[i], table.columns[i].unit);
  }
  return object;
}

void trim_end(std::string& line) { line.erase(line.find_last_not_of(' ') + 1); }

}  // namespace

std::string readable_bytes(uint64_t bytes) {
  if (bytes < 1024) return std::to_string(bytes);
  auto value = static_cast<double>(bytes);
  std::string_view units = "KMGTPE";
  do {
    value /= 1024;
    if (value < 999.5 || units.size() == 1) break;
    units.remove_prefix(1);
  } while (true);
  return value < 99.95 ? fmt::format("{:.1f}{}", value, units.front())
                       : fmt::format("{:.0f}{}", value, units.front());
}

std::string readable_time(uint64_t milliseconds) {
  if (milliseconds < 1000) return fmt::format("{}ms", milliseconds);
  const uint64_t seconds = milliseconds / 1000;
  if (seconds < 60) return fmt::format("{}.{}s", seconds, milliseconds % 1000 / 100);
  if (seconds < 3600) return fmt::format("{}m{:02}s", seconds / 60, seconds % 60);
  const uint64_t hours = seconds / 3600;
  if (hours < 24) return fmt::format("{}h{:02}m", hours, seconds % 3600 / 60);
  return fmt::format("{}d{:02}h", hours / 24, hours % 24);
}

std::string to_text(const ControlTable& table, TableShape shape) {
  std::string text;
  if (shape == TableShape::kRecord) {
    size_t width = 0;
    for (const ControlColumn& column : table.columns) width = std::max(width, column.name.size());
    for (size_t i = 0; i < table.columns.size(); ++i) {
      const ControlColumn& column = table.columns[i];
      text += fmt::format("{:<{}}  {}\n", column.name, width,
                          text_of(table.rows.front()[i], column.unit));
    }
    return text + "\n";
  }
  std::vector<size_t> widths;
  std::vector<std::vector<std::string>> rows;
  for (const ControlColumn& column : table.columns) widths.push_back(column.name.size());
  for (const auto& row : table.rows) {
    auto& shown = rows.emplace_back();
    for (size_t i = 0; i < row.size(); ++i) {
      shown.push_back(text_of(row[i], table.columns[i].unit));
      widths[i] = std::max(widths[i], shown.back().size());
    }
  }
  const auto add_line = [&](auto&& cell) {
    std::string line;
    for (size_t i = 0; i < widths.size(); ++i) line += fmt::format("{:<{}}  ", cell(i), widths[i]);
    trim_end(line);
    text += line + "\n";
  };
  add_line([&](size_t i) { return table.columns[i].name; });
  for (const auto& row : rows) add_line([&](size_t i) { return std::string_view(row[i]); });
  return text + "\n";
}

std::string to_json(const ControlTable& table, TableShape shape) {
  if (shape == TableShape::kRecord) return object_of(table, table.rows.front()).dump() + "\n\n";
  Json list = Json::array();
  for (const auto& row : table.rows) list.push_back(object_of(table, row));
  return list.dump() + "\n\n";
}

std::string note_answer(std::string_view text, bool json) {
  if (json) return Json{{"done", printable(text)}}.dump() + "\n\n";
  return printable(text) + "\n\n";
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
