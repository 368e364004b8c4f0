#include "uring/service/logs/line_format.h"

#include <array>
#include <charconv>
#include <chrono>
#include <cstring>

namespace virtproxy {
namespace {

using std::literals::string_view_literals::operator""sv;
using RecordKind = ParcelRecord::Kind;

constexpr char kHex[] = "0123456789abcdef";
// 00 to 99
constexpr auto kTwoDigits = [] {
  std::array<char, 200> digits{};
  for (size_t i = 0; i < 100; ++i) {
    digits[2 * i] = static_cast<char>('0' + i / 10);
    digits[2 * i + 1] = static_cast<char>('0' + i % 10);
  }
  return digits;
}();

void append_number(std::string& out, uint64_t number) {
  char digits[20];
  const auto [end, error] = std::to_chars(digits, digits + sizeof digits, number);
  out.append(digits, error == std::errc() ? static_cast<size_t>(end - digits) : 0);
}

// Text from left to right, in room that its owner has made. A string that grows checks its room for
// every piece, and a line has twenty.
class Cursor {
 public:
  explicit Cursor(char* at) : at_(at) {}

  void put(char c) { *at_++ = c; }
  void put(std::string_view text) {
    std::memcpy(at_, text.data(), text.size());
    at_ += text.size();
  }
  void put(uint64_t number) { at_ = std::to_chars(at_, at_ + kMostDigits, number).ptr; }
  // ` name="number"`
  void put(std::string_view name, uint64_t number) {
    put(' ');
    put(name);
    put("=\""sv);
    put(number);
    put('"');
  }
  char* at() const { return at_; }

 private:
  static constexpr size_t kMostDigits = 20;

  char* at_;
};

void append_hex(std::string& out, uint64_t number) {
  for (int shift = 60; shift >= 0; shift -= 4) out += kHex[number >> shift & 15];
}

void append_byte_hex(std::string& out, unsigned char byte) {
  out += "\\x";
  out += kHex[byte >> 4];
  out += kHex[byte & 15];
}

bool is_control(unsigned char c) { return (c < 0x20 && c != '\t') || c == 0x7f; }

constexpr uint64_t kHighBits = 0x8080808080808080;
uint64_t load_word(std::string_view text, size_t at) {
  uint64_t word;
  std::memcpy(&word, text.data() + at, sizeof word);
  return word;
}

// A compiler that knows vectors makes one or two instructions of each operation on them.
using Bytes16 [[gnu::vector_size(16)]] = unsigned char;

// The end of whole pieces of 16 bytes from `at` on that have no control character, backslash or
// quotation mark.
size_t skip_plain(std::string_view text, size_t at) {
  for (; text.size() - at >= sizeof(Bytes16); at += sizeof(Bytes16)) {
    Bytes16 piece;
    std::memcpy(&piece, text.data() + at, sizeof piece);
    const auto special = (piece < 0x20) | (piece == 0x7f) |
                         (piece == static_cast<unsigned char>('\\')) |
                         (piece == static_cast<unsigned char>('"'));
    uint64_t halves[2];
    std::memcpy(halves, &special, sizeof halves);
    if ((halves[0] | halves[1]) != 0) break;
  }
  return at;
}

// The MESSAGE of RFC 5424.
void append_message(std::string& out, std::string_view text) {
  size_t plain = 0;
  for (size_t i = skip_plain(text, 0); i < text.size(); i = skip_plain(text, i + 1)) {
    const auto c = static_cast<unsigned char>(text[i]);
    const bool slash = c == '\\' && i + 1 < text.size() && text[i + 1] == 'x';
    if (!slash && !is_control(c)) continue;
    out.append(text, plain, i - plain);
    append_byte_hex(out, c);
    plain = i + 1;
  }
  out.append(text, plain);
}

// A header field: 1 to `most` printable ASCII characters without a space.
void append_field(std::string& out, std::string_view text, size_t most) {
  if (text.empty()) {
    out += '-';
    return;
  }
  for (const char c : text.substr(0, most)) out += c > ' ' && c < 0x7f ? c : '_';
}

// The value of a parameter: UTF-8 with " \ and ] escaped; here ASCII alone.
void append_parameter(std::string& out, std::string_view name, std::string_view value) {
  out += ' ';
  out += name;
  out += "=\"";
  for (const char c : value) {
    if (c == '"' || c == '\\' || c == ']') out += '\\';
    out += c >= ' ' && c < 0x7f ? c : '_';
  }
  out += '"';
}

std::string_view name_of(RecordKind kind) {
  switch (kind) {
    case RecordKind::kLine:
      return "line";
    case RecordKind::kHead:
      return "head";
    case RecordKind::kDrop:
      return "drop";
    case RecordKind::kUnaccounted:
      return "unaccounted";
    case RecordKind::kForgotten:
      break;
  }
  return "forgotten";
}

// The text of a record that is not a line, such as `5 lines dropped (oldest), 230 bytes`.
void append_sentence(std::string& out, const ParcelRecord& record) {
  append_number(out, record.count);
  switch (record.kind) {
    case RecordKind::kDrop:
      out += " lines dropped (";
      out += logs::name_of(record.reason);
      out += "), ";
      break;
    case RecordKind::kUnaccounted:
      out += " lines unaccounted, ";
      break;
    default:
      out += " lines at most never sent by a log that is given up, ";
  }
  append_number(out, record.bytes);
  out += " bytes";
}

// RFC 5424 permits six digits. A record that was dropped has the time of the last of its lines.
constexpr size_t kDigitsOfSecond = 6;
logs::UnixTime time_of(const Parcel& parcel, const ParcelRecord& record) {
  return record.last_time != 0 ? record.last_time : parcel.received;
}

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  size_t plain = 0;
  for (size_t i = skip_plain(text, 0); i < text.size(); i = skip_plain(text, i + 1)) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) continue;
    out.append(text, plain, i - plain);
    plain = i + 1;
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else {
      out += "\\u00";
      out += kHex[c >> 4];
      out += kHex[c & 15];
    }
  }
  out.append(text, plain);
  out += '"';
}

void append_base64(std::string& out, std::string_view text) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < text.size(); i += 3) {
    const size_t left = text.size() - i;
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) {
      group = group << 8 | (k < left ? static_cast<unsigned char>(text[i + k]) : 0u);
    }
    for (size_t k = 0; k < 4; ++k) {
      out += k <= left ? kDigits[group >> (18 - 6 * k) & 63] : '=';
    }
  }
}

void append_key(std::string& out, std::string_view name) {
  out += ",\"";
  out += name;
  out += "\":";
}

void append_pair(std::string& out, std::string_view name, uint64_t value) {
  append_key(out, name);
  append_number(out, value);
}

// Text that the guest chose, which need not be UTF-8.
void append_claimed(std::string& out, std::string_view name, std::string_view text) {
  const bool plain = is_utf8(text);
  out += ",\"";
  out += name;
  out += plain ? "\":" : "_base64\":\"";
  if (plain) return append_json_string(out, text);
  append_base64(out, text);
  out += '"';
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    if (text.size() - i >= sizeof(uint64_t) && (load_word(text, i) & kHighBits) == 0) {
      i += sizeof(uint64_t);
      continue;
    }
    const auto first = static_cast<unsigned char>(text[i]);
    if (first < 0x80) {
      ++i;
      continue;
    }
    size_t more = 0;
    unsigned char least = 0x80;
    unsigned char most = 0xbf;
    if (first >= 0xc2 && first <= 0xdf) {
      more = 1;
    } else if (first >= 0xe0 && first <= 0xef) {
      more = 2;
      if (first == 0xe0) least = 0xa0;
      if (first == 0xed) most = 0x9f;  // no surrogates
    } else if (first >= 0xf0 && first <= 0xf4) {
      more = 3;
      if (first == 0xf0) least = 0x90;
      if (first == 0xf4) most = 0x8f;
    } else {
      return false;
    }
    if (text.size() - i <= more) return false;
    for (size_t k = 1; k <= more; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if (next < least || next > most) return false;
      least = 0x80;
      most = 0xbf;
    }
    i += more + 1;
  }
  return true;
}

Priority5424 split_priority(std::string_view line) {
  constexpr unsigned kMost = 191;
  unsigned value = 0;
  size_t at = 1;
  while (at < line.size() && at < 4 && line[at] >= '0' && line[at] <= '9') {
    value = value * 10 + static_cast<unsigned>(line[at++] - '0');
  }
  const bool found = line.starts_with('<') && at > 1 && at < line.size() && line[at] == '>' &&
                     value <= kMost && (at == 2 || line[1] != '0');
  if (!found) return {13, line};
  return {value, line.substr(at + 1)};
}

std::string text_of(const logs::LogId& id) {
  std::string text;
  append_hex(text, id.high);
  append_hex(text, id.low);
  return text;
}

char* LineWriter::put_time(char* at, logs::UnixTime time, size_t digits) {
  constexpr uint64_t kNano = 1'000'000'000;
  const uint64_t second = time / kNano;
  if (second != second_) keep_second(second);
  Cursor out(at);
  out.put(second_text_);
  // Two digits at a time: a division takes longer than all else here.
  char fraction[10];
  uint64_t rest = time % kNano * 10;
  for (size_t i = sizeof fraction; i > 0; rest /= 100) {
    i -= 2;
    std::memcpy(fraction + i, &kTwoDigits[rest % 100 * 2], 2);
  }
  out.put(std::string_view(fraction, digits));
  out.put('Z');
  return out.at();
}

void LineWriter::keep_second(uint64_t second) {
  using namespace std::chrono;
  const sys_days day{days(second / 86400)};
  const year_month_day date{day};
  const hh_mm_ss clock{seconds(second % 86400)};
  second_ = second;
  second_text_.clear();
  const auto two = [&](char before, unsigned value) {
    if (before != 0) second_text_ += before;
    second_text_.append(&kTwoDigits[value % 100 * 2], 2);
  };
  const auto year = static_cast<unsigned>(static_cast<int>(date.year()));
  two(0, year / 100);
  two(0, year);
  two('-', static_cast<unsigned>(date.month()));
  two('-', static_cast<unsigned>(date.day()));
  two('T', static_cast<unsigned>(clock.hours().count()));
  two(':', static_cast<unsigned>(clock.minutes().count()));
  two(':', static_cast<unsigned>(clock.seconds().count()));
  second_text_ += '.';
}

void LineWriter::append_time(std::string& out, logs::UnixTime time, size_t digits) {
  char text[kMostOfTime];
  out.append(text, static_cast<size_t>(put_time(text, time, digits) - text));
}

void LineWriter::append(std::string& out, std::string_view vm, const Parcel& parcel,
                        const ParcelRecord& record) {
  switch (format_) {
    case LineFormat::kRfc5424:
      return append_rfc5424(out, vm, parcel, record);
    case LineFormat::kJson:
      return append_json(out, vm, parcel, record);
    case LineFormat::kText:
      return append_text(out, vm, parcel, record);
  }
}

void LineWriter::prepare_names(std::string_view vm, std::string_view source,
                               const logs::LogId& log) {
  constexpr size_t kMostHostName = 255;
  constexpr size_t kMostAppName = 48;
  const bool same = names_.vm == vm && names_.source == source && names_.log == log;
  if (same && !names_.header.empty()) return;
  names_ = {std::string(vm), std::string(source), log, {}, {}};
  names_.header = ' ';
  append_field(names_.header, vm, kMostHostName);
  names_.header += ' ';
  append_field(names_.header, source, kMostAppName);
  names_.header += ' ';
  names_.parameters = " [virtproxy@32473";
  append_parameter(names_.parameters, "vm", vm);
  append_parameter(names_.parameters, "source", source);
  append_parameter(names_.parameters, "log", text_of(log));
  head_.resize(names_.header.size() + names_.parameters.size() + kMostBesideNames);
}

void LineWriter::append_rfc5424(std::string& out, std::string_view vm, const Parcel& parcel,
                                const ParcelRecord& record) {
  constexpr unsigned kWarning = 44;  // syslog.warning
  const bool text = record.kind <= RecordKind::kHead;
  Priority5424 line{kWarning, {}};
  if (text) line = split_priority(parcel.text_of(record));
  prepare_names(vm, parcel.source_of(record), parcel.log_of(record));
  Cursor head(head_.data());
  head.put('<');
  head.put(uint64_t{line.value});
  head.put(">1 "sv);
  head = Cursor(put_time(head.at(), time_of(parcel, record), kDigitsOfSecond));
  head.put(names_.header);
  if (record.has_credentials) {
    head.put(uint64_t{record.credentials.pid});
  } else {
    head.put('-');
  }
  head.put(' ');
  head.put(record.kind == RecordKind::kLine ? "-"sv : name_of(record.kind));
  head.put(names_.parameters);
  head.put("seq"sv, record.seq);
  if (record.has_credentials) {
    head.put("uid"sv, record.credentials.uid);
    head.put("gid"sv, record.credentials.gid);
  }
  if (record.kind != RecordKind::kLine) {
    head.put("count"sv, record.count);
    head.put("bytes"sv, record.bytes);
  }
  if (record.kind == RecordKind::kDrop) {
    head.put(" reason=\""sv);
    head.put(logs::name_of(record.reason));
    head.put('"');
  }
  head.put("] "sv);
  out.append(head_.data(), static_cast<size_t>(head.at() - head_.data()));
  if (!text) return append_sentence(out, record);
  append_message(out, line.rest);
}

void LineWriter::append_text(std::string& out, std::string_view vm, const Parcel& parcel,
                             const ParcelRecord& record) {
  const bool text = record.kind <= RecordKind::kHead;
  prepare_names(vm, parcel.source_of(record), parcel.log_of(record));
  Cursor head(put_time(head_.data(), time_of(parcel, record), kDigitsOfSecond));
  // With the space behind, in whose place a mark follows.
  head.put(std::string_view(names_.header).substr(0, names_.header.size() - 1));
  if (record.has_credentials) {
    head.put('[');
    head.put(uint64_t{record.credentials.pid});
    head.put(']');
  }
  if (record.kind == RecordKind::kHead) {
    head.put('~');
    head.put(record.bytes);
  }
  head.put(text ? ": "sv : "! "sv);
  out.append(head_.data(), static_cast<size_t>(head.at() - head_.data()));
  if (!text) return append_sentence(out, record);
  append_message(out, split_priority(parcel.text_of(record)).rest);
}

void LineWriter::append_json(std::string& out, std::string_view vm, const Parcel& parcel,
                             const ParcelRecord& record) {
  const bool text = record.kind <= RecordKind::kHead;
  out += "{\"vm\":";
  append_json_string(out, vm);
  if (record.kind != RecordKind::kForgotten)
    append_claimed(out, "source", parcel.source_of(record));
  append_key(out, "log");
  append_json_string(out, text_of(parcel.log_of(record)));
  append_pair(out, "seq", record.seq);
  const logs::UnixTime time = record.time != 0 ? record.time : parcel.received;
  append_key(out, "time");
  out += '"';
  append_time(out, time, 9);
  append_key(out += '"', "received");
  out += '"';
  append_time(out, parcel.received, 9);
  out += '"';
  if (record.has_credentials) {
    append_pair(out, "pid", record.credentials.pid);
    append_pair(out, "uid", record.credentials.uid);
    append_pair(out, "gid", record.credentials.gid);
  }
  if (text) {
    if (record.kind == RecordKind::kHead) append_pair(out, "full_length", record.bytes);
    append_claimed(out, "message", parcel.text_of(record));
    out += '}';
    return;
  }
  append_key(out, name_of(record.kind));
  out += "{\"count\":";
  append_number(out, record.count);
  append_pair(out, "bytes", record.bytes);
  if (record.kind == RecordKind::kDrop) {
    append_key(out, "reason");
    append_json_string(out, logs::name_of(record.reason));
    append_key(out, "until");
    out += '"';
    append_time(out, record.last_time, 9);
    out += '"';
  }
  out += "}}";
}

}  // namespace virtproxy
