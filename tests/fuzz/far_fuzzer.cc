// What another end answers to `far`: any bytes. It is either a table within its limits, or refused
// with one line; and whatever it says, the tables that are made of it beside drawn streams of this
// end can be shown: no text of the other end starts a line or a cell of its own.

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/assert.h"
#include "tests/fuzz/input.h"
#include "uring/daemon/far_tables.h"

using namespace virtproxy;
using namespace virtproxy::fuzz;

namespace {

constexpr std::string_view kColumns[] = {"stream",  "number",    "side",
                                         "service", "waits_for", "waiting"};

void must_print(std::string_view text) {
  for (const char c : text) VP_ASSERT(c >= ' ' && c <= '~');
}

// One for each row, each with a cell for each column, and nothing that does not print.
void must_show(const ControlTable& table, TableShape shape) {
  for (const auto& row : table.rows) VP_ASSERT(row.size() == table.columns.size());
  const std::string text = to_text(table, shape);
  size_t lines = 0;
  for (const char c : text) {
    VP_ASSERT(c == '\n' || (c >= ' ' && c <= '~'));
    lines += c == '\n' ? 1 : 0;
  }
  // An empty line is the last; above the rows there is one with the names.
  if (shape == TableShape::kRows) VP_ASSERT(lines == table.rows.size() + 2);
  const auto json = nlohmann::json::parse(to_json(table, shape));
  VP_ASSERT(shape == TableShape::kRecord ? json.is_object() : json.size() == table.rows.size());
}

// Streams of this end, a few of whose numbers the other end may have guessed.
StreamRows streams_of(Input& in) {
  StreamRows rows;
  for (uint64_t n = in.number(1) % 8; n > 0; --n) {
    const uint64_t form = in.number(1);
    StreamRow row{};
    row.name = {"vm1", {static_cast<uint32_t>(in.number(1)), 1}};
    if ((form & 1) != 0) row.number = static_cast<uint32_t>(in.number(1));
    row.service = (form & 2) != 0 ? "http" : "ssh";
    row.role = (form & 4) != 0 ? StreamRole::kOpener : StreamRole::kAcceptor;
    if ((form & 8) != 0) row.waits_for = static_cast<StallReason>((form >> 4) % kStallReasons);
    row.waits = std::chrono::milliseconds(in.number(2));
    rows.rows.push_back(std::move(row));
  }
  rows.matching = rows.rows.size();
  if (in.number(1) % 4 == 1) {
    rows.listeners.push_back({"vm1", "db", StallReason::kDescriptors, std::chrono::seconds(3), {}});
  }
  return rows;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  const StreamRows here = streams_of(in);
  const auto bytes = in.bytes(size);
  const std::string_view answer(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto there = FarTable::parse(answer);
  if (!there) {
    VP_ASSERT(!there.error().empty());
    must_print(there.error());
    return 0;
  }
  VP_ASSERT(there->rows() <= FarTable::kMostRows);
  for (size_t row = 0; row < there->rows(); ++row) {
    for (const std::string_view column : kColumns) {
      const auto text = there->text(row, column);
      if (text) VP_ASSERT(text->size() <= FarTable::kMostCell);
      if (there->number(row, column)) VP_ASSERT(text && !text->empty());
    }
  }
  must_show(far_streams_table(here, *there), TableShape::kRows);
  must_show(far_why_table(here, *there), TableShape::kRows);
  must_show(far_status_table(*there), TableShape::kRecord);
  // What this end would answer is understood by another one like it.
  const auto own = FarTable::parse(far_answer(streams_for_far(here)));
  VP_ASSERT(own && own->rows() == here.rows.size() + here.listeners.size());
  return 0;
}
