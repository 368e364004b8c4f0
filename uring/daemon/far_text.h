// What an end answers to the other one (FAR.md): a table in lines of cells with tabs between them.
//
// Whoever reads it trusts nothing: the sizes are bounded, a cell is text until it was read as
// something else, and it may have any byte but tab and LF.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "uring/daemon/control_table.h"

namespace virtproxy {

std::string far_answer(const ControlTable& table);
std::string far_refusal(std::string_view text);

class FarTable {
 public:
  static constexpr size_t kMostColumns = 32;
  static constexpr size_t kMostRows = 1024;
  static constexpr size_t kMostCell = 160;  // bytes

  // The error names the fault in the bytes of the other end, or is the error that it answered.
  static tl::expected<FarTable, std::string> parse(std::string_view text);

  size_t rows() const { return rows_.size(); }
  // Nothing where there is no such column, or the cell is empty ("-"), or not a number.
  std::optional<std::string> text(size_t row, std::string_view column) const;
  std::optional<uint64_t> number(size_t row, std::string_view column) const;

 private:
  using Cells = std::vector<std::string>;

  Cells names_;
  std::vector<Cells> rows_;
};

}  // namespace virtproxy
