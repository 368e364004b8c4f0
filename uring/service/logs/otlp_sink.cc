#include "uring/service/logs/otlp_sink.h"

#include <algorithm>
#include <cctype>
#include <optional>

#include "uring/base/log.h"
#include "uring/base/text.h"
#include "uring/base/units.h"
#include "uring/service/logs/line_format.h"

namespace virtproxy {
namespace {

using Kind = ParcelRecord::Kind;

constexpr Duration kOtlpAnswerTime = std::chrono::seconds(60);
constexpr Duration kLeastOtlpBackoff = std::chrono::milliseconds(500);
constexpr Duration kMostOtlpBackoff = std::chrono::seconds(60);
constexpr uint64_t kMostRetryAfter = 300;  // seconds
constexpr size_t kMostResponse = 64u << 10;

// The wire format of protocol buffers (protobuf.dev/programming-guides/encoding).
void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}
void put_number(std::string& out, unsigned field, uint64_t value) {
  put_varint(out, field << 3);
  put_varint(out, value);
}
void put_fixed(std::string& out, unsigned field, uint64_t value) {
  put_varint(out, field << 3 | 1);
  for (int shift = 0; shift < 64; shift += 8) out += static_cast<char>(value >> shift);
}
void put_bytes(std::string& out, unsigned field, std::string_view bytes) {
  put_varint(out, field << 3 | 2);
  put_varint(out, bytes.size());
  out += bytes;
}

// AnyValue: text, or bytes where it is not UTF-8.
std::string value_of(std::string_view text) {
  std::string value;
  put_bytes(value, is_utf8(text) ? 1 : 7, text);
  return value;
}
std::string value_of(uint64_t number) {
  std::string value;
  put_number(value, 3, number);
  return value;
}

// KeyValue in the field of that number.
template <typename Value>
void put_attribute(std::string& out, unsigned field, std::string_view key, const Value& value) {
  std::string pair;
  put_bytes(pair, 1, key);
  put_bytes(pair, 2, value_of(value));
  put_bytes(out, field, pair);
}

// SeverityNumber of a syslog severity, as OpenTelemetry's data model of logs maps it (appendix B).
unsigned severity_number(unsigned priority) {
  constexpr unsigned kNumbers[] = {21, 19, 18, 17, 13, 10, 9, 5};
  return kNumbers[priority & 7];
}

void put_record(std::string& out, const Parcel& parcel, const ParcelRecord& record) {
  const bool text = record.kind <= Kind::kHead;
  constexpr unsigned kWarning = 44;
  const unsigned priority = text ? split_priority(parcel.text_of(record)).value : kWarning;
  const std::string log = text_of(parcel.log_of(record));
  put_fixed(out, 1, record.time != 0 ? record.time : parcel.received);
  put_number(out, 2, severity_number(priority));
  if (text) {
    put_bytes(out, 5, value_of(parcel.text_of(record)));
  } else {
    const std::string_view what = record.kind == Kind::kDrop ? "dropped" : "unaccounted";
    put_bytes(out, 5, value_of(std::to_string(record.count) + " lines " + std::string(what)));
  }
  // Unique, for a receiver that must have no record twice.
  put_attribute(out, 6, "log.record.uid",
                log + "-" + std::to_string(record.source) + "-" + std::to_string(record.seq));
  put_attribute(out, 6, "virtproxy.source", parcel.source_of(record));
  put_attribute(out, 6, "virtproxy.seq", record.seq);
  if (record.has_credentials) {
    put_attribute(out, 6, "process.pid", uint64_t{record.credentials.pid});
    put_attribute(out, 6, "virtproxy.uid", uint64_t{record.credentials.uid});
    put_attribute(out, 6, "virtproxy.gid", uint64_t{record.credentials.gid});
  }
  if (record.kind == Kind::kHead) put_attribute(out, 6, "virtproxy.full_length", record.bytes);
  if (!text) {
    const bool drop = record.kind == Kind::kDrop;
    put_attribute(out, 6, "virtproxy.reason",
                  drop                                ? logs::name_of(record.reason)
                  : record.kind == Kind::kUnaccounted ? std::string_view("unaccounted")
                                                      : std::string_view("forgotten"));
    put_attribute(out, 6, "virtproxy.count", record.count);
    put_attribute(out, 6, "virtproxy.bytes", record.bytes);
  }
  put_fixed(out, 11, parcel.received);
}

std::optional<uint64_t> take_varint(std::string_view& rest) {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && !rest.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(rest[0]);
    rest.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

// A field of length-delimited type or a number; others are skipped. Nothing where it is not there.
struct ProtobufField {
  uint64_t number = 0;
  std::string_view bytes;
};
ProtobufField field_of(std::string_view message, unsigned wanted) {
  ProtobufField found;
  while (!message.empty()) {
    const auto tag = take_varint(message);
    if (!tag) break;
    const unsigned type = *tag & 7;
    const size_t fixed = type == 1 ? 8 : type == 5 ? 4 : 0;
    std::string_view bytes;
    uint64_t number = 0;
    if (type == 0 || type == 2) {
      const auto value = take_varint(message);
      if (!value || (type == 2 && *value > message.size())) break;
      number = *value;
      if (type == 2) {
        bytes = message.substr(0, *value);
        message.remove_prefix(*value);
      }
    } else if (fixed == 0 || message.size() < fixed) {
      break;
    } else {
      message.remove_prefix(fixed);
    }
    if (*tag >> 3 == wanted) found = {number, bytes};
  }
  return found;
}

bool same_letters(std::string_view one, std::string_view other) {
  return std::equal(one.begin(), one.end(), other.begin(), other.end(), [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) ==
           std::tolower(static_cast<unsigned char>(b));
  });
}

// The value of a header field; empty where there is none.
std::string_view header_of(std::string_view head, std::string_view name) {
  while (!head.empty()) {
    const size_t end = std::min(head.find("\r\n"), head.size());
    const std::string_view line = head.substr(0, end);
    head.remove_prefix(std::min(end + 2, head.size()));
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || !same_letters(line.substr(0, colon), name)) continue;
    std::string_view value = line.substr(colon + 1);
    while (!value.empty() && value.front() == ' ') value.remove_prefix(1);
    while (!value.empty() && value.back() == ' ') value.remove_suffix(1);
    return value;
  }
  return {};
}

// A body in chunks (RFC 9112, 7.1). Nothing while it is not complete; `bad` where it is none.
std::optional<std::string> join_chunks(std::string_view rest, bool& bad) {
  std::string body;
  for (;;) {
    const size_t end = rest.find("\r\n");
    if (end == std::string_view::npos) return std::nullopt;
    const auto size = parse_number<uint32_t>(rest.substr(0, std::min(end, rest.find(';'))), 16);
    if (!size || *size > kMostResponse) {
      bad = true;
      return std::nullopt;
    }
    rest.remove_prefix(end + 2);
    if (rest.size() < *size + size_t{2}) return std::nullopt;
    if (*size == 0) return body;
    body += rest.substr(0, *size);
    rest.remove_prefix(*size + size_t{2});
  }
}

}  // namespace

void OtlpSink::take(const ParcelView& view) {
  vms_.try_emplace(view.parcel.vm, view.vm);
  parcels_.add(view, [&](std::string& out, const ParcelRecord& record) {
    put_record(out, view.parcel, record);
  });
}

// ExportLogsServiceRequest: a ResourceLogs for each VM in turn.
std::string OtlpSink::request_body() {
  std::string body;
  size_t bytes = 0;
  while (parcels_.has_unsent() && parcels_.sent() < limit_ && bytes < kMostBytes) {
    const size_t vm = parcels_.vm(parcels_.sent());
    std::string scope;
    while (parcels_.has_unsent() && parcels_.sent() < limit_ && bytes < kMostBytes &&
           parcels_.vm(parcels_.sent()) == vm) {
      put_bytes(scope, 2, parcels_.unsent());
      bytes += parcels_.unsent().size();
      parcels_.mark_sent();
    }
    std::string resource;
    put_attribute(resource, 1, "host.name", std::string_view(vms_[vm]));
    std::string logs;
    put_bytes(logs, 1, resource);
    put_bytes(logs, 2, scope);
    put_bytes(body, 1, logs);
  }
  return body;
}

void OtlpSink::flush() {
  if (state_ != State::kReady || !link().up() || !parcels_.has_unsent()) return;
  const std::string body = request_body();
  std::string& out = link().out();
  out += "POST /v1/logs HTTP/1.1\r\nHost: " + spec().target +
         "\r\nContent-Type: application/x-protobuf\r\nUser-Agent: virtproxy\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n";
  out += body;
  counters().written.fetch_add(body.size(), std::memory_order_relaxed);
  state_ = State::kAsked;
  timer().set(loop().now() + kOtlpAnswerTime);
  link().flush();
}

void OtlpSink::link_up() {
  counters().up = true;
  input_.clear();
  if (state_ == State::kDown) state_ = State::kReady;
  flush();
}

void OtlpSink::lost() {
  parcels_.rewind();
  // A pause that the receiver asked for goes on.
  if (state_ == State::kPaused) return;
  state_ = State::kDown;
  timer().clear();
}

void OtlpSink::pause(Duration time) {
  parcels_.rewind();
  state_ = State::kPaused;
  timer().set(loop().now() + time);
}

void OtlpSink::expired(Timer&) {
  if (state_ == State::kAsked) return link().give_up("no answer");
  state_ = link().up() ? State::kReady : State::kDown;
  flush();
}

void OtlpSink::link_received(std::string_view bytes) {
  input_ += bytes;
  const auto wrong = [&] {
    link().reset("answers with something else than HTTP: give the port of OTLP over HTTP (4318)");
  };
  const size_t end = input_.find("\r\n\r\n");
  if (end == std::string::npos) {
    if (input_.size() > kMostResponse) wrong();
    return;
  }
  const std::string_view head = std::string_view(input_).substr(0, end);
  const std::string_view rest = std::string_view(input_).substr(end + 4);
  const auto status = parse_number<unsigned>(head.size() >= 12 ? head.substr(9, 3) : "");
  if (!head.starts_with("HTTP/1.") || !status || state_ != State::kAsked) return wrong();
  std::string body;
  if (same_letters(header_of(head, "Transfer-Encoding"), "chunked")) {
    bool bad = rest.size() > 2 * kMostResponse;
    auto joined = join_chunks(rest, bad);
    if (bad) return wrong();
    if (!joined) return;
    body = *std::move(joined);
  } else {
    const std::string_view given = header_of(head, "Content-Length");
    const auto length = parse_number<uint32_t>(given.empty() ? "0" : given);
    if (!length || *length > kMostResponse) return wrong();
    if (rest.size() < *length) return;
    body = rest.substr(0, *length);
  }
  const std::string retry_after(header_of(head, "Retry-After"));
  const bool closes = same_letters(header_of(head, "Connection"), "close");
  input_.clear();
  timer().clear();
  on_response(*status, retry_after, body);
  if (closes) link().reset("closed by the other end");
  flush();
}

void OtlpSink::on_response(unsigned status, std::string_view retry_after, std::string_view body) {
  const size_t asked = parcels_.sent();
  if (status == 200) {
    const ProtobufField partial = field_of(body, 1);
    const uint64_t rejected = std::min<uint64_t>(field_of(partial.bytes, 1).number, asked);
    if (rejected > 0) {
      log_warn("{}: {} of {} records were refused: {}", spec().label(), rejected, asked,
               printable(field_of(partial.bytes, 2).bytes.substr(0, 200)));
      counters().rejected.fetch_add(rejected, std::memory_order_relaxed);
      // Which ones is not told, unless it is all of them.
      for (size_t i = 0; rejected >= asked && i < asked; ++i) parcels_.refuse(i);
    }
    parcels_.acknowledge(asked);
    limit_ = std::min(2 * limit_, kMostRecords);
    backoff_ = Duration::zero();
    reported_ = 0;
    state_ = State::kReady;
    link().works();
    return progressed();
  }
  if (std::exchange(reported_, status) != status) {
    log_warn("{}: status {}: {}", spec().label(), status, printable(body.substr(0, 200)));
  }
  // These are about what was sent; all others are about the receiver, or its address.
  const bool refused = status == 400 || status == 413 || status == 422;
  if (!refused) {
    backoff_ = std::clamp(backoff_ * 2, kLeastOtlpBackoff, kMostOtlpBackoff);
    const auto seconds = parse_number<uint64_t>(retry_after);
    return pause(seconds ? std::chrono::seconds(std::min(*seconds, kMostRetryAfter)) : backoff_);
  }
  state_ = State::kReady;
  if (asked > 1) {
    limit_ = std::max<size_t>(1, asked / 2);
    return parcels_.rewind();
  }
  counters().rejected.fetch_add(1, std::memory_order_relaxed);
  parcels_.refuse(0);
  parcels_.acknowledge(1);
  limit_ = std::min(2 * limit_, kMostRecords);
  progressed();
}

}  // namespace virtproxy
