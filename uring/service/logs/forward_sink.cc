#include "uring/service/logs/forward_sink.h"

#include <algorithm>
#include <chrono>

#include "uring/service/logs/line_format.h"

namespace virtproxy {
namespace {

using Kind = ParcelRecord::Kind;

// Fluentd's default for ack_response_timeout is 190 s; a receiver on a full disk takes its time.
constexpr Duration kForwardAnswerTime = std::chrono::seconds(190);
constexpr size_t kMostForwardAnswer = 1024;

// The encodings of MessagePack (github.com/msgpack/msgpack, spec.md) that are needed.
void put_big_endian(std::string& out, uint64_t value, int bytes) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
    out += static_cast<char>(value >> shift);
}

void put_number(std::string& out, uint64_t value) {
  if (value < 0x80) {
    out += static_cast<char>(value);
  } else if (value <= UINT32_MAX) {
    out += '\xce';
    put_big_endian(out, value, 4);
  } else {
    out += '\xcf';
    put_big_endian(out, value, 8);
  }
}

void put_text(std::string& out, std::string_view text) {
  if (text.size() < 32) {
    out += static_cast<char>(0xa0 | text.size());
  } else if (text.size() < 256) {
    out += '\xd9';
    put_big_endian(out, text.size(), 1);
  } else {
    out += '\xdb';
    put_big_endian(out, text.size(), 4);
  }
  out += text;
}

void put_binary(std::string& out, std::string_view bytes) {
  out += '\xc6';
  put_big_endian(out, bytes.size(), 4);
  out += bytes;
}

// What a guest wrote: text where it is UTF-8.
void put_claimed(std::string& out, std::string_view bytes) {
  is_utf8(bytes) ? put_text(out, bytes) : put_binary(out, bytes);
}

void put_map(std::string& out, size_t pairs) { out += static_cast<char>(0x80 | pairs); }

void put_pair(std::string& out, std::string_view key, uint64_t value) {
  put_text(out, key);
  put_number(out, value);
}

// [EventTime, {…}]
void put_entry(std::string& out, const ParcelView& view, const ParcelRecord& record) {
  constexpr uint64_t kNano = 1'000'000'000;
  const Parcel& parcel = view.parcel;
  const logs::UnixTime time = record.time != 0 ? record.time : parcel.received;
  out += '\x92';
  out += "\xd7";
  out += '\0';
  put_big_endian(out, time / kNano, 4);
  put_big_endian(out, time % kNano, 4);
  const bool text = record.kind <= Kind::kHead;
  put_map(out, 5 + (record.has_credentials ? 3 : 0) + (record.kind == Kind::kHead ? 1 : 0));
  put_text(out, "vm");
  put_text(out, view.vm);
  put_text(out, "source");
  put_claimed(out, parcel.source_of(record));
  put_text(out, "log");
  put_text(out, text_of(parcel.log_of(record)));
  put_pair(out, "seq", record.seq);
  if (record.has_credentials) {
    put_pair(out, "pid", record.credentials.pid);
    put_pair(out, "uid", record.credentials.uid);
    put_pair(out, "gid", record.credentials.gid);
  }
  if (record.kind == Kind::kHead) put_pair(out, "full_length", record.bytes);
  if (text) {
    put_text(out, "message");
    return put_claimed(out, parcel.text_of(record));
  }
  const bool drop = record.kind == Kind::kDrop;
  put_text(out, drop ? "drop" : record.kind == Kind::kUnaccounted ? "unaccounted" : "forgotten");
  put_map(out, drop ? 3 : 2);
  put_pair(out, "count", record.count);
  put_pair(out, "bytes", record.bytes);
  if (drop) {
    put_text(out, "reason");
    put_text(out, logs::name_of(record.reason));
  }
}

// The text at the front of `rest`, which is taken away. `short_of` where it is not complete.
enum class TextFound { kText, kShort, kNone };
TextFound take_text(std::string_view& rest, std::string_view& text) {
  if (rest.empty()) return TextFound::kShort;
  const auto first = static_cast<unsigned char>(rest[0]);
  size_t head = 1;
  size_t size = 0;
  if ((first & 0xe0) == 0xa0) {
    size = first & 0x1f;
  } else if (first == 0xd9 || first == 0xc4) {
    if (rest.size() < 2) return TextFound::kShort;
    head = 2;
    size = static_cast<unsigned char>(rest[1]);
  } else {
    return TextFound::kNone;
  }
  if (rest.size() < head + size) return TextFound::kShort;
  text = rest.substr(head, size);
  rest.remove_prefix(head + size);
  return TextFound::kText;
}

}  // namespace

void ForwardSink::take(const ParcelView& view) {
  Chunk& chunk = chunks_.emplace_back();
  std::string entries;
  uint64_t count = 0;
  for (const ParcelRecord& record : view.parcel.records) {
    if (!view.wants(record)) continue;
    if (count++ == 0) {
      // Unique, and the same when it is sent again.
      chunk.id = text_of(view.parcel.log_of(record)) + "-" + std::to_string(record.source) + "-" +
                 std::to_string(record.seq) + "-" + std::to_string(safe_ + chunks_.size());
    }
    put_entry(entries, view, record);
  }
  chunk.answered = count == 0;
  if (count > 0) {
    chunk.bytes += '\x93';
    put_text(chunk.bytes, "virtproxy." + std::string(view.vm));
    put_binary(chunk.bytes, entries);
    put_map(chunk.bytes, 2);
    put_text(chunk.bytes, "chunk");
    put_text(chunk.bytes, chunk.id);
    put_pair(chunk.bytes, "size", count);
  }
  bytes_ += chunk.bytes.size();
  advance();
}

void ForwardSink::advance() {
  while (!chunks_.empty() && chunks_.front().answered) {
    bytes_ -= chunks_.front().bytes.size();
    chunks_.pop_front();
    if (sent_ > 0) --sent_;
    ++safe_;
  }
}

void ForwardSink::flush() {
  if (!link().up()) return;
  const bool silent = sent_ == 0;
  while (sent_ < chunks_.size() && link().unsent() < kMostUnsent) {
    const Chunk& chunk = chunks_[sent_++];
    if (chunk.answered) continue;
    link().out() += chunk.bytes;
    counters().written.fetch_add(chunk.bytes.size(), std::memory_order_relaxed);
  }
  if (silent && sent_ > 0) timer().set(loop().now() + kForwardAnswerTime);
  link().flush();
}

void ForwardSink::link_up() {
  counters().up = true;
  sent_ = 0;
  input_.clear();
  flush();
}

void ForwardSink::lost() {
  timer().clear();
  sent_ = 0;
}

void ForwardSink::expired(Timer&) {
  link().give_up("no answer: it has to acknowledge chunks (require_ack_response)");
}

void ForwardSink::link_received(std::string_view bytes) {
  input_ += bytes;
  const uint64_t before = safe_;
  std::string_view rest = input_;
  while (link().receives() && take_answer(rest)) {
  }
  advance();
  if (safe_ != before) progressed();
  if (!link().receives()) return;
  input_.erase(0, input_.size() - rest.size());
  if (sent_ == 0) timer().clear();
  flush();
}

// {"ack": id}
bool ForwardSink::take_answer(std::string_view& rest) {
  const auto wrong = [&] {
    link().reset(
        "answers with something else than the acknowledgement of a chunk: a receiver that asks for "
        "a "
        "shared key is not supported");
    return false;
  };
  if (rest.empty()) return false;
  if (rest[0] != '\x81') return wrong();
  std::string_view left = rest.substr(1);
  for (const bool is_key : {true, false}) {
    std::string_view text;
    const TextFound found = take_text(left, text);
    if (found == TextFound::kShort && rest.size() < kMostForwardAnswer) return false;
    if (found != TextFound::kText || (is_key && text != "ack")) return wrong();
    if (is_key) continue;
    const auto end = chunks_.begin() + static_cast<ptrdiff_t>(sent_);
    const auto chunk =
        std::find_if(chunks_.begin(), end, [&](const Chunk& each) { return each.id == text; });
    if (chunk == end) return wrong();
    chunk->answered = true;
  }
  rest = left;
  link().works();
  timer().set(loop().now() + kForwardAnswerTime);
  return true;
}

}  // namespace virtproxy
