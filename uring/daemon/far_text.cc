#include "uring/daemon/far_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "uring/base/text.h"
#include "uring/base/units.h"

namespace virtproxy {
namespace {

constexpr std::string_view kOk = "ok";
constexpr std::string_view kError = "error ";
constexpr std::string_view kEnd = "end";
constexpr std::string_view kNothing = "-";

std::string text_of(const ControlCell& cell) {
  if (const auto* text = std::get_if<std::string>(&cell)) {
    return text->empty() ? std::string(kNothing) : printable(*text);
  }
  if (const auto* yes = std::get_if<bool>(&cell)) return *yes ? "yes" : "no";
  const auto* number = std::get_if<uint64_t>(&cell);
  return number == nullptr ? std::string(kNothing) : std::to_string(*number);
}

// The next line, without its end; nothing where no end follows.
std::optional<std::string_view> take_line(std::string_view& text) {
  const size_t end = text.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end + 1);
  return line;
}

// Nothing where there are too many, or one is too long.
std::optional<std::vector<std::string>> cells_of(std::string_view line) {
  std::vector<std::string> cells;
  for (;;) {
    const size_t end = std::min(line.find('\t'), line.size());
    if (end > FarTable::kMostCell || cells.size() == FarTable::kMostColumns) return std::nullopt;
    cells.emplace_back(line.substr(0, end));
    if (end == line.size()) return cells;
    line.remove_prefix(end + 1);
  }
}

tl::unexpected<std::string> malformed(std::string_view what) {
  return tl::unexpected(fmt::format("has sent what is no answer: {}", what));
}

}  // namespace

std::string far_answer(const ControlTable& table) {
  std::string text = std::string(kOk) + "\n";
  for (size_t i = 0; i < table.columns.size(); ++i) {
    text += (i == 0 ? "" : "\t") + std::string(table.columns[i].name);
  }
  text += "\n";
  for (const auto& row : table.rows) {
    for (size_t i = 0; i < row.size(); ++i) text += (i == 0 ? "" : "\t") + text_of(row[i]);
    text += "\n";
  }
  return text + std::string(kEnd) + "\n";
}

std::string far_refusal(std::string_view text) {
  return std::string(kError) + printable(text) + "\n";
}

tl::expected<FarTable, std::string> FarTable::parse(std::string_view text) {
  const auto head = take_line(text);
  if (!head) return malformed("it has no line");
  if (head->starts_with(kError)) {
    return tl::unexpected(
        fmt::format("answers: {}", printable(head->substr(kError.size(), kMostCell))));
  }
  if (*head != kOk) return malformed(in_quotes(head->substr(0, kMostCell)));
  FarTable table;
  const auto names = take_line(text);
  if (!names) return malformed("it ends before the names of the columns");
  auto columns = cells_of(*names);
  if (!columns) return malformed("a cell is too long, or a line has too many");
  table.names_ = *std::move(columns);
  for (;;) {
    const auto line = take_line(text);
    if (!line) return malformed("it is cut off");
    if (*line == kEnd) return table;
    auto cells = cells_of(*line);
    if (!cells) return malformed("a cell is too long, or a line has too many");
    if (cells->size() != table.names_.size())
      return malformed("a line has not as many cells as there are names");
    if (table.rows_.size() == kMostRows) return malformed("it has too many lines");
    table.rows_.push_back(*std::move(cells));
  }
}

std::optional<std::string> FarTable::text(size_t row, std::string_view column) const {
  const auto name = std::find(names_.begin(), names_.end(), column);
  if (name == names_.end()) return std::nullopt;
  const std::string& cell = rows_[row][static_cast<size_t>(name - names_.begin())];
  return cell == kNothing ? std::nullopt : std::optional(cell);
}

std::optional<uint64_t> FarTable::number(size_t row, std::string_view column) const {
  const auto cell = text(row, column);
  return cell ? parse_number<uint64_t>(*cell) : std::nullopt;
}

}  // namespace virtproxy
