#include "core/agent/message.h"

#include <array>
#include <utility>

namespace virtproxy::agent {
namespace {

constexpr std::array<std::string_view, 11> kCodes{
    "bad-argument", "too-large", "busy",        "timeout",      "not-allowed",  "not-found",
    "io",           "frozen",    "unsupported", "rate-limited", "shutting-down"};

Message bad(ErrorCode code, std::string text) {
  Message message;
  message.error = error_of(code, std::move(text));
  return message;
}

Error decode_error(const Json& body) {
  Error error = error_of(ErrorCode::kUnsupported, "");
  const auto text_of = [&](const char* key) {
    const auto found = body.find(key);
    return found != body.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  error.text = text_of("desc");
  error.command_not_found = text_of("class") == "CommandNotFound";
  const std::string code = text_of("code");
  for (size_t i = 0; i < kCodes.size(); ++i) {
    if (code == kCodes[i]) error.code = static_cast<ErrorCode>(i);
  }
  if (code.starts_with("io:")) {
    error.code = ErrorCode::kIo;
    error.io = code.substr(3);
  }
  return error;
}

void append_id(std::string& text, const std::optional<std::string>& id) {
  if (id) text.append(",\"id\":").append(*id);
}

}  // namespace

Error error_of(ErrorCode code, std::string text) { return {code, std::move(text), "", false}; }

Error io_error(std::string errno_name, std::string text) {
  return {ErrorCode::kIo, std::move(text), std::move(errno_name), false};
}

std::string error_code_text(const Error& error) {
  std::string text(kCodes[static_cast<size_t>(error.code)]);
  if (error.code == ErrorCode::kIo) text.append(":").append(error.io);
  return text;
}

Message parse_message(std::string_view line) {
  ParsedJson parsed = parse_json(line);
  if (parsed.fault != JsonFault::kNone) {
    const bool large = parsed.fault == JsonFault::kTooDeep ||
                       parsed.fault == JsonFault::kTooManyValues ||
                       parsed.fault == JsonFault::kNumberTooLarge;
    return bad(large ? ErrorCode::kTooLarge : ErrorCode::kBadArgument,
               "the message " + std::string(json_fault_text(parsed.fault)));
  }
  if (!parsed.value.is_object()) {
    return bad(ErrorCode::kBadArgument, "the message is not an object: {\"execute\":METHOD}");
  }
  Message message;
  if (parsed.value.contains("id")) {
    // parse_json() has accepted the line, so the member is found.
    const std::string_view id = raw_member(line, "id").value_or("null");
    if (id.size() > kMaxId) {
      return bad(ErrorCode::kTooLarge, "the id is longer than 128 bytes");
    }
    message.id = std::string(id);
  }
  constexpr std::array<std::pair<const char*, Message::Kind>, 4> kKinds{{
      {"execute", Message::Kind::kRequest},
      {"return", Message::Kind::kReturn},
      {"error", Message::Kind::kError},
      {"event", Message::Kind::kEvent},
  }};
  int kinds = 0;
  const auto fail = [&](std::string text) {
    message.kind = Message::Kind::kBad;
    message.error = error_of(ErrorCode::kBadArgument, std::move(text));
    return message;
  };
  for (const auto& [key, kind] : kKinds) {
    if (!parsed.value.contains(key)) continue;
    message.kind = kind;
    ++kinds;
  }
  if (kinds != 1) {
    return fail("the message must have one of execute, return, error and event");
  }
  if (message.kind == Message::Kind::kReturn) {
    message.body = std::move(parsed.value["return"]);
    return message;
  }
  if (message.kind == Message::Kind::kError) {
    Json& body = parsed.value["error"];
    if (!body.is_object()) return fail("error must be an object");
    message.error = decode_error(body);
    message.body = std::move(body);
    return message;
  }
  const bool request = message.kind == Message::Kind::kRequest;
  const char* const body_key = request ? "arguments" : "data";
  for (const auto& [key, value] : parsed.value.items()) {
    if (key == (request ? "execute" : "event")) {
      if (!value.is_string()) return fail("the name must be a string");
      message.name = value.get<std::string>();
    } else if (key == body_key) {
      if (!value.is_object()) return fail(key + " must be an object");
    } else if (key != "id" && (request || key != "timestamp")) {
      return fail(
          "the message has a member that is not known; known are execute, arguments and id");
    }
  }
  if (message.name.empty() || message.name.size() > kMaxMethodName) {
    return fail("a name has 1 to 64 characters");
  }
  const auto timestamp = parsed.value.find("timestamp");
  if (timestamp != parsed.value.end() && timestamp->is_object()) {
    message.timestamp = std::move(*timestamp);
  }
  const auto body = parsed.value.find(body_key);
  message.body = body == parsed.value.end() ? Json::object() : std::move(*body);
  return message;
}

std::string encode_request(std::string_view method, const Json& arguments, uint64_t id) {
  std::string text = "{\"execute\":" + to_text(Json(method));
  if (!arguments.empty()) text += ",\"arguments\":" + to_text(arguments);
  return text + ",\"id\":" + std::to_string(id) + "}\n";
}

std::string encode_return(const Json& value, const std::optional<std::string>& id) {
  std::string text = "{\"return\":" + to_text(value);
  append_id(text, id);
  return text + "}\n";
}

std::string encode_error(const Error& error, const std::optional<std::string>& id) {
  const Json body = {{"class", error.command_not_found ? "CommandNotFound" : "GenericError"},
                     {"desc", cut_utf8(error.text, 1024)},
                     {"code", error_code_text(error)}};
  std::string text = "{\"error\":" + to_text(body);
  append_id(text, id);
  return text + "}\n";
}

std::string encode_event(std::string_view name, const Json& data,
                         const std::optional<WallTime>& time) {
  Json event = {{"event", name}, {"data", data}};
  if (time) event["timestamp"] = {{"seconds", time->seconds}, {"microseconds", time->microseconds}};
  return to_text(event) + "\n";
}

}  // namespace virtproxy::agent
