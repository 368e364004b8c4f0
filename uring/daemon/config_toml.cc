// The only file that knows toml++.

#include <algorithm>
#include <array>
#include <charconv>
#include <new>
#include <optional>

#include "uring/base/text.h"
#include "uring/base/toml.h"
#include "uring/base/units.h"
#include "uring/daemon/config_tree.h"

namespace virtproxy {
namespace {

// Some editors begin a file with it.
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

static_assert(kMaxConfigDepth == TOML_MAX_NESTED_VALUES);

// Text that is no text: found before the parser sees it, so that the message can say so.
std::optional<Problem> binary_fault(const ConfigText& file) {
  unsigned line = 1;
  unsigned column = 1;
  for (const char c : file.text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\t' && c != '\n' && c != '\r') || byte == 0x7f) {
      return Problem{{file.name, line, column},
                     "byte " + printable(std::string_view(&c, 1)) + " is no text",
                     "a configuration is a TOML file in UTF-8"};
    }
    ++column;
    if (c == '\n') {
      ++line;
      column = 1;
    }
  }
  return std::nullopt;
}

std::optional<Problem> deep_key_fault(const ConfigText& file) {
  const auto at = find_deep_key(file.text);
  if (!at) return std::nullopt;
  return Problem{{file.name, at->line, at->column},
                 "a key has more than " + std::to_string(kMaxKeyParts) + " parts",
                 "tables are four deep at most, as channel.NAME.listen.SERVICE"};
}

class Converter {
 public:
  explicit Converter(const std::string& file) : file_(file) {}

  // The depth was bounded by what was parsed.
  ConfigNode convert(const toml::node& from) const {
    ConfigNode node;
    node.at = origin(from.source());
    if (const toml::table* table = from.as_table()) {
      node.type = ConfigNode::Type::kTable;
      for (const auto& [key, value] : *table) {
        ConfigNode item = convert(value);
        item.key = key.str();
        item.key_at = origin(key.source());
        node.items.push_back(std::move(item));
      }
      std::sort(node.items.begin(), node.items.end(), [](const auto& one, const auto& other) {
        return std::pair(one.key_at.line, one.key_at.column) <
               std::pair(other.key_at.line, other.key_at.column);
      });
    } else if (const toml::array* array = from.as_array()) {
      node.type = ConfigNode::Type::kArray;
      for (const toml::node& value : *array) node.items.push_back(convert(value));
    } else if (const auto* string = from.as_string()) {
      node.type = ConfigNode::Type::kString;
      node.text = string->get();
    } else if (const auto* integer = from.as_integer()) {
      node.type = ConfigNode::Type::kInteger;
      node.text = std::to_string(integer->get());
    } else if (const auto* number = from.as_floating_point()) {
      node.type = ConfigNode::Type::kFloat;
      node.text = format_seconds(number->get());
    } else if (const auto* boolean = from.as_boolean()) {
      node.type = ConfigNode::Type::kBoolean;
      node.text = boolean->get() ? "on" : "off";
    } else {
      node.type = ConfigNode::Type::kDate;
    }
    return node;
  }

 private:
  Origin origin(const toml::source_region& source) const {
    return {file_, source.begin.line, source.begin.column};
  }

  const std::string& file_;
};

// Converts an error text of the library. Common mistakes get a text and an advice of our own.
Problem explain(const Origin& origin, std::string_view said) {
  const auto is = [said](std::string_view sign) {
    return said.find(sign) != std::string_view::npos;
  };
  if (is("maximum nested value depth")) {
    return {origin,
            "values are more than " + std::to_string(kMaxConfigDepth) + " deep in each other",
            "a value is text, a number, true, false or a list of these"};
  }
  if (is("leading zeroes")) {
    return {origin, "a number begins with 0",
            "write a mode as text, such as \"0660\", and any other number without the 0"};
  }
  // binary_fault() has refused every other control character: this one is the end of the line.
  if (is("unescaped control characters")) {
    return {origin, "a text does not end on its line", "close it with a double quote"};
  }
  if (is("cannot redefine existing")) {
    return {origin,
            printable(said.substr(std::min(said.find('\''), said.size()))) + " is there already",
            "give each table and each key once"};
  }
  return {origin, "not TOML: " + printable(said),
          "write KEY = VALUE under a [TABLE], with text in double quotes"};
}

}  // namespace

tl::expected<ConfigNode, Problem> parse_toml(const ConfigText& file) {
  try {
    if (auto fault = binary_fault(file)) return tl::unexpected(*std::move(fault));
    if (auto fault = deep_key_fault(file)) return tl::unexpected(*std::move(fault));
    std::string_view text = file.text;
    if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
    const auto result = try_parse_toml(text);
    if (!result) {
      return tl::unexpected(
          Problem{{file.name, toml_failed_line(text), 1},
                  "not TOML: this line cannot be understood",
                  "write KEY = VALUE under a [TABLE], with text in double quotes"});
    }
    const toml::parse_result& parsed = *result;
    if (parsed) return Converter(file.name).convert(parsed.table());
    const toml::parse_error& error = parsed.error();
    const toml::source_position at = error.source().begin;
    const Origin origin{file.name, std::max(at.line, 1u), std::max(at.column, 1u)};
    return tl::unexpected(explain(origin, error.description()));
  } catch (const std::bad_alloc&) {
    return tl::unexpected(
        Problem{{file.name, 0, 0}, "there is not enough memory to read it", "raise ulimit -v"});
  }
}

}  // namespace virtproxy
