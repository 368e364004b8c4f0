#include "core/agent/json.h"

#include <algorithm>
#include <vector>

namespace virtproxy::agent {
namespace {

// Builds a value from the events of the parser. `false` from any of them ends the parser.
class Builder {
 public:
  explicit Builder(const JsonLimits& limits) : limits_(limits) {}

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(int64_t value) { return add(value); }
  bool number_unsigned(uint64_t value) { return add(value); }
  bool number_float(double value, const std::string& written) {
    // The parser hands over an integer that 64 bits do not hold as a number with a fraction.
    if (written.find_first_of(".eE") == std::string::npos) return fail(JsonFault::kNumberTooLarge);
    return add(value);
  }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(Json::binary_t&) { return fail(JsonFault::kSyntax); }
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    Json& object = *open_.back();
    if (object.contains(name)) return fail(JsonFault::kDuplicateKey);
    key_ = std::move(name);
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) {
    // 406: a number with an exponent beyond a double.
    return fail(error.id == 406 ? JsonFault::kNumberTooLarge : JsonFault::kSyntax);
  }

  JsonFault fault() const { return fault_; }
  Json take() { return std::move(root_); }

 private:
  bool fail(JsonFault fault) {
    if (fault_ == JsonFault::kNone) fault_ = fault;
    return false;
  }
  bool close() {
    open_.pop_back();
    return true;
  }
  bool open(Json value) {
    if (open_.size() >= limits_.depth) return fail(JsonFault::kTooDeep);
    Json* const place = put(std::move(value));
    if (place == nullptr) return false;
    open_.push_back(place);
    return true;
  }
  bool add(Json value) { return put(std::move(value)) != nullptr; }
  Json* put(Json value) {
    if (++values_ > limits_.values) {
      fail(JsonFault::kTooManyValues);
      return nullptr;
    }
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    Json& member = parent[key_];
    member = std::move(value);
    return &member;
  }

  const JsonLimits limits_;
  JsonFault fault_ = JsonFault::kNone;
  unsigned values_ = 0;
  Json root_;
  std::string key_;
  // Pointers into the value. An array that grows moves its elements, but only its last one is open.
  std::vector<Json*> open_;
};

// Where the JSON value that begins at `at` ends. The text is known to be well-formed.
size_t end_of_value(std::string_view text, size_t at) {
  int depth = 0;
  bool quoted = false;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted) {
      if (c == '\\') {
        ++at;
      } else if (c == '"') {
        quoted = false;
        if (depth == 0) return at + 1;
      }
      continue;
    }
    if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      // The end of what is around a number.
      if (depth == 0) return at;
      if (--depth == 0) return at + 1;
    } else if (depth == 0 && (c == ',' || c == ' ' || c == '\t' || c == '\r' || c == '\n')) {
      return at;
    }
  }
  return at;
}

}  // namespace

std::string_view json_fault_text(JsonFault fault) {
  switch (fault) {
    case JsonFault::kNone:
      break;
    case JsonFault::kSyntax:
      return "is not JSON in UTF-8";
    case JsonFault::kTooDeep:
      return "is nested more than 16 deep";
    case JsonFault::kTooManyValues:
      return "has more than 4096 values";
    case JsonFault::kDuplicateKey:
      return "has a key twice in one object";
    case JsonFault::kNumberTooLarge:
      return "has a number beyond 64 bits";
  }
  return "is good";
}

ParsedJson parse_json(std::string_view text, const JsonLimits& limits) {
  // The parser takes a NUL for the end of its input.
  if (text.find('\0') != std::string_view::npos) return {JsonFault::kSyntax, nullptr};
  Builder builder(limits);
  const bool good = Json::sax_parse(text.begin(), text.end(), &builder);
  if (builder.fault() != JsonFault::kNone) return {builder.fault(), nullptr};
  if (!good) return {JsonFault::kSyntax, nullptr};
  return {JsonFault::kNone, builder.take()};
}

std::optional<std::string_view> raw_member(std::string_view text, std::string_view key) {
  constexpr std::string_view kBlank = " \t\r\n";
  size_t at = text.find('{');
  if (at == std::string_view::npos) return std::nullopt;
  ++at;
  for (;;) {
    at = text.find('"', at);
    if (at == std::string_view::npos) return std::nullopt;
    const size_t name_end = end_of_value(text, at);
    const std::string_view name = text.substr(at, name_end - at);
    const size_t begin = text.find_first_not_of(kBlank, text.find(':', name_end) + 1);
    if (begin == std::string_view::npos) return std::nullopt;
    const size_t end = end_of_value(text, begin);
    // A name may be written with escapes.
    const Json decoded = Json::parse(name, nullptr, false);
    if (decoded.is_string() && decoded.get_ref<const std::string&>() == key) {
      return text.substr(begin, end - begin);
    }
    at = end;
  }
}

std::string to_text(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string_view cut_utf8(std::string_view text, size_t bytes) {
  if (text.size() <= bytes) return text;
  while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xc0) == 0x80) --bytes;
  return text.substr(0, bytes);
}

}  // namespace virtproxy::agent
