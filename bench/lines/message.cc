#include "lines/message.h"

#include <nlohmann/json.hpp>

#include "uring/base/units.h"

namespace virtproxy::bench::lines {
namespace {

constexpr size_t kMostCountDigits = 8;

// "123 " in front of a message.
bool read_count(std::string_view text, size_t& count, size_t& used, bool& incomplete) {
  incomplete = false;
  count = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ' ' && i > 0) {
      used = i + 1;
      return true;
    }
    if (text[i] < '0' || text[i] > '9' || i == kMostCountDigits || (i == 0 && text[i] == '0')) {
      return false;
    }
    count = count * 10 + static_cast<size_t>(text[i] - '0');
  }
  incomplete = true;
  return false;
}

int hex_value(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

// \xNN becomes the byte, as virtproxy writes control characters in text.
std::string without_escapes(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && text[i + 1] == 'x') {
      const int high = hex_value(text[i + 2]), low = hex_value(text[i + 3]);
      if (high >= 0 && low >= 0) {
        out += static_cast<char>(high << 4 | low);
        i += 3;
        continue;
      }
    }
    out += text[i];
  }
  return out;
}

bool decode_base64(std::string_view text, std::string& out) {
  uint32_t group = 0;
  int bits = 0;
  while (text.ends_with('=')) text.remove_suffix(1);
  for (const char c : text) {
    uint32_t value = 0;
    if (c >= 'A' && c <= 'Z') {
      value = static_cast<uint32_t>(c - 'A');
    } else if (c >= 'a' && c <= 'z') {
      value = static_cast<uint32_t>(c - 'a') + 26;
    } else if (c >= '0' && c <= '9') {
      value = static_cast<uint32_t>(c - '0') + 52;
    } else if (c == '+' || c == '/') {
      value = c == '+' ? 62 : 63;
    } else {
      return false;
    }
    group = group << 6 | value;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    out += static_cast<char>(group >> bits & 255);
  }
  return true;
}

// What stands for lines that are not there: the name of the object, or the MSGID.
void set_drop(std::string_view kind, uint64_t count, std::string reason, Unpacked& result) {
  if (kind == "head") {
    result.dropped = 1;
    result.reason = "too-large";
    return;
  }
  result.dropped = count;
  result.reason = kind == "drop" ? std::move(reason) : std::string(kind);
  result.at_most = kind == "forgotten";
}

Unpacked unpack_json(std::string_view message) {
  Unpacked result;
  const auto json = nlohmann::json::parse(message, nullptr, false);
  if (!json.is_object()) return result;
  result.valid = true;
  for (const char* kind : {"drop", "unaccounted", "forgotten"}) {
    const auto found = json.find(kind);
    if (found == json.end() || !found->is_object()) continue;
    const auto count = found->find("count");
    const auto reason = found->find("reason");
    if (count == found->end() || !count->is_number_unsigned()) continue;
    const bool named = reason != found->end() && reason->is_string();
    set_drop(kind, count->get<uint64_t>(), named ? reason->get<std::string>() : "", result);
    return result;
  }
  if (json.contains("full_length")) set_drop("head", 1, {}, result);
  for (const char* key : {"message", "MESSAGE", "msg", "log"}) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_string()) continue;
    result.text = found->get<std::string>();
    return result;
  }
  const auto encoded = json.find("message_base64");
  if (encoded != json.end() && encoded->is_string()) {
    result.valid = decode_base64(encoded->get_ref<const std::string&>(), result.text);
  }
  return result;
}

// A parameter of structured data: NAME="VALUE" with \", \\ and \] escaped.
bool read_parameter(std::string_view text, size_t& at, std::string& name, std::string& value) {
  const size_t equals = text.find('=', at);
  if (equals == std::string_view::npos || equals + 1 >= text.size() || text[equals + 1] != '"') {
    return false;
  }
  name = text.substr(at, equals - at);
  value.clear();
  for (size_t i = equals + 2; i < text.size(); ++i) {
    if (text[i] == '"') {
      at = i + 1;
      return true;
    }
    if (text[i] == '\\' && i + 1 < text.size()) ++i;
    value += text[i];
  }
  return false;
}

// The elements of structured data from `at` on; leaves `at` behind them.
bool read_elements(std::string_view text, size_t& at, uint64_t& count, std::string& reason) {
  while (at < text.size() && text[at] == '[') {
    ++at;
    while (at < text.size() && text[at] != ' ' && text[at] != ']') ++at;
    while (at < text.size() && text[at] == ' ') {
      ++at;
      std::string name, value;
      if (!read_parameter(text, at, name, value)) return false;
      if (name == "count") count = parse_number<uint64_t>(value).value_or(0);
      if (name == "reason") reason = value;
    }
    if (at >= text.size() || text[at] != ']') return false;
    ++at;
  }
  return true;
}

Unpacked unpack_rfc5424(std::string_view message) {
  Unpacked result;
  size_t at = 0, field = 0;
  // <PRI>1 TIMESTAMP HOSTNAME APP-NAME PROCID MSGID
  for (int i = 0; i < 6; ++i) {
    field = at;
    at = message.find(' ', at);
    if (at == std::string_view::npos) return result;
    ++at;
  }
  const std::string_view id = message.substr(field, at - 1 - field);
  uint64_t count = 0;
  std::string reason;
  if (at < message.size() && message[at] == '-') {
    ++at;
  } else if (!read_elements(message, at, count, reason)) {
    return result;
  }
  result.valid = at >= message.size() || message[at] == ' ';
  if (at < message.size()) ++at;
  std::string_view text = message.substr(std::min(at, message.size()));
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  result.text =
      text.find('\\') == std::string_view::npos ? std::string(text) : without_escapes(text);
  // Other programs use these names as well, but with no count.
  const bool known = id == "drop" || id == "unaccounted" || id == "forgotten" || id == "head";
  if (known && count > 0) set_drop(id, count, std::move(reason), result);
  return result;
}

}  // namespace

MessageSplitter::Cut MessageSplitter::next(std::string_view text, std::string_view& message,
                                           size_t& used) const {
  size_t count = 0, head = 0;
  bool incomplete = false;
  if (framing_ != Framing::kLf && read_count(text, count, head, incomplete)) {
    if (text.size() - head < count) return Cut::kIncomplete;
    message = text.substr(head, count);
    used = head + count;
    return Cut::kMessage;
  }
  if (framing_ != Framing::kLf && incomplete) return Cut::kIncomplete;
  const size_t end = text.find('\n');
  if (end == std::string_view::npos) return Cut::kIncomplete;
  message = text.substr(0, end);
  used = end + 1;
  return Cut::kMessage;
}

MessageFormat format_of(std::string_view message) {
  if (message.starts_with('{')) return MessageFormat::kJson;
  // <PRI>1 and a blank
  if (message.starts_with('<')) {
    const size_t end = message.find('>');
    if (end != std::string_view::npos && end >= 2 && end <= 4 &&
        message.substr(end + 1).starts_with("1 ")) {
      return MessageFormat::kRfc5424;
    }
  }
  return MessageFormat::kPlain;
}

Unpacked unpack(std::string_view message) {
  switch (format_of(message)) {
    case MessageFormat::kJson:
      return unpack_json(message);
    case MessageFormat::kRfc5424:
      return unpack_rfc5424(message);
    case MessageFormat::kPlain:
      break;
  }
  Unpacked result;
  result.valid = true;
  result.text = message;
  return result;
}

}  // namespace virtproxy::bench::lines
