// JSON with limits that hold while it is parsed: a value beyond one of them is never built.
//
// The parser is that of nlohmann-json, driven by events; a depth or a number of values beyond the
// limit, a key that an object has already, and an integer beyond 64 bits end it.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "core/agent/limits.h"

namespace virtproxy::agent {

using Json = nlohmann::json;

struct JsonLimits {
  unsigned depth = kMaxDepth;
  unsigned values = kMaxValues;
};

enum class JsonFault {
  kNone,
  kSyntax,  // also text that is not UTF-8, and a NUL
  kTooDeep,
  kTooManyValues,
  kDuplicateKey,
  kNumberTooLarge,
};

// Completes "the message …".
std::string_view json_fault_text(JsonFault fault);

struct ParsedJson {
  JsonFault fault = JsonFault::kNone;
  Json value;  // null if there is a fault
};

ParsedJson parse_json(std::string_view text, const JsonLimits& limits = {});

// The text of the value of the member `key` of the object `text`, which parse_json() accepted;
// nothing if there is no such member. Views `text`.
std::optional<std::string_view> raw_member(std::string_view text, std::string_view key);

// One line, without an LF. What is not UTF-8 becomes U+FFFD.
std::string to_text(const Json& value);

// `text` cut to at most `bytes`, not within a UTF-8 sequence.
std::string_view cut_utf8(std::string_view text, size_t bytes);

}  // namespace virtproxy::agent
