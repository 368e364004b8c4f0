#include "uring/service/logs/account_codec.h"

#include "core/wire/little_endian.h"

namespace virtproxy {

void AccountWriter::put(uint64_t value) {
  std::byte bytes[8];
  store_le<uint64_t>(bytes, value);
  out_.append(reinterpret_cast<const char*>(bytes), sizeof bytes);
}

void AccountWriter::put(const logs::Mark& mark) {
  put(mark.seq);
  put(mark.bytes);
}

void AccountWriter::put(const logs::Tally& tally) {
  put(tally.lines);
  put(tally.bytes);
}

void AccountWriter::put(const logs::LogId& id) {
  put(id.low);
  put(id.high);
}

void AccountWriter::put(std::string_view text) {
  put(text.size());
  out_ += text;
}

void AccountWriter::put(const logs::LogAccount& account) {
  put(account.id);
  put(account.boot);
  put(account.position);
  put(uint64_t{account.finished});
  put(account.skipped);
  put(account.sources.size());
  for (const logs::SourceAccount& source : account.sources) {
    put(std::string_view(source.name));
    put(source.base);
    put(source.next);
    put(source.known);
    put(source.delivered);
    for (const logs::Tally& tally : source.dropped) put(tally);
    put(source.unaccounted);
    put(source.duplicates);
  }
}

uint64_t AccountReader::number() {
  if (rest_.size() < 8) return good_ = false;
  const auto value = load_le<uint64_t>(reinterpret_cast<const std::byte*>(rest_.data()));
  rest_.remove_prefix(8);
  return value;
}

std::string AccountReader::text(size_t most) {
  const uint64_t size = number();
  if (!good_ || size > most || size > rest_.size()) {
    good_ = false;
    return {};
  }
  std::string value(rest_.substr(0, size));
  rest_.remove_prefix(size);
  return value;
}

logs::Mark AccountReader::mark() {
  const uint64_t seq = number();
  return {seq, number()};
}

logs::Tally AccountReader::tally() {
  const uint64_t lines = number();
  return {lines, number()};
}

logs::LogId AccountReader::id() {
  const uint64_t low = number();
  return {low, number()};
}

logs::LogAccount AccountReader::account() {
  logs::LogAccount account;
  account.id = id();
  account.boot = id();
  account.position = number();
  account.finished = number() != 0;
  account.skipped = number();
  const uint64_t sources = number();
  if (sources == 0 || sources > logs::kMaxSources) good_ = false;
  for (uint64_t i = 0; good_ && i < sources; ++i) {
    logs::SourceAccount& source = account.sources.emplace_back();
    source.name = text(logs::kMaxName);
    source.base = mark();
    source.next = mark();
    source.known = mark();
    source.delivered = tally();
    for (logs::Tally& each : source.dropped) each = tally();
    source.unaccounted = tally();
    source.duplicates = number();
  }
  return account;
}

}  // namespace virtproxy
