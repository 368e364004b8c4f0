#include "lines/line.h"

#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "pattern.h"

namespace virtproxy::bench::lines {
namespace {

constexpr std::string_view kDigits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr uint8_t kNoDigit = 255;

constexpr std::array<uint8_t, 256> kValues = [] {
  std::array<uint8_t, 256> values{};
  values.fill(kNoDigit);
  for (size_t i = 0; i < kDigits.size(); ++i) {
    values[static_cast<uint8_t>(kDigits[i])] = static_cast<uint8_t>(i);
  }
  return values;
}();

struct Field {
  size_t at;
  size_t digits;
};

constexpr Field kRun{5, 5};
constexpr Field kWriter{11, 2};
constexpr Field kNumber{14, 7};
constexpr Field kTime{22, 11};
constexpr Field kLength{34, 4};
constexpr Field kCheck{39, 8};
constexpr std::array<size_t, 6> kDots = {10, 13, 21, 33, 38, 47};
static_assert(kDots.back() + 1 == kNamedSize);

constexpr uint64_t kCheckMask = (uint64_t{1} << 48) - 1;
constexpr size_t kTable = 1 << 16;
// A short line has at most so many bits of number; the rest of it is filler.
constexpr int kMostNumberBits = 42;

void put(char* line, const Field& field, uint64_t value) {
  for (size_t i = field.digits; i-- > 0; value >>= 6) line[field.at + i] = kDigits[value & 63];
}

bool take(const char* line, const Field& field, uint64_t& value) {
  uint64_t result = 0;
  uint8_t bad = 0;
  for (size_t i = 0; i < field.digits; ++i) {
    const uint8_t digit = kValues[static_cast<uint8_t>(line[field.at + i])];
    bad |= digit & 0xC0;
    result = result << 6 | (digit & 63);
  }
  value = result;
  return bad == 0;
}

uint64_t check_of(const char* line, size_t size) {
  const uint64_t head = XXH3_64bits(line, kCheck.at);
  const uint64_t rest = XXH3_64bits(line + kNamedSize, size - kNamedSize);
  return (std::rotl(head, 17) ^ rest) & kCheckMask;
}

bool good_filler(Content content, uint8_t byte) {
  switch (content) {
    case Content::kText:
      return byte >= ' ' && byte < 127 && byte != '"' && byte != '\\';
    case Content::kBytes:
      return byte != '\n';
    case Content::kAll:
      return true;
  }
  return false;
}

// Filler of a short line: digits that depend on the number and the writer.
char short_filler(uint64_t field, size_t at) { return kDigits[mix_seed(field + at) & 63]; }

}  // namespace

int LineShape::writer_bits() const { return static_cast<int>(std::bit_width(writers - 1)); }

int LineShape::number_bits() const {
  const int bits = static_cast<int>(std::min<size_t>(size, kNamedSize)) * 6 - writer_bits();
  return std::min(bits, kMostNumberBits);
}

std::string why_unusable(const LineShape& shape) {
  if (shape.size < 1 || shape.size > kLargestLine) return "--size of a line must be 1 to 1M";
  if (shape.writers < 1 || shape.writers > kMaxWriters) {
    return fmt::format("the number of writers must be 1 to {}", kMaxWriters);
  }
  // Lines are told apart as long as less than half of the numbers of a cycle are under way.
  if (!shape.named() && shape.number_bits() < 6) {
    return fmt::format(
        "lines of {} B do not hold the numbers of {} writers: give a larger --size or fewer "
        "writers",
        shape.size, shape.writers);
  }
  return {};
}

LineMaker::LineMaker(const LineShape& shape) : shape_(shape), filler_(kTable + shape.size) {
  uint64_t state = shape.run;
  for (size_t i = 0; i < filler_.size();) {
    const auto byte = static_cast<uint8_t>(mix_seed(++state));
    if (good_filler(shape.content, byte)) filler_[i++] = static_cast<char>(byte);
  }
}

void LineMaker::make(uint32_t writer, uint64_t number, int64_t time_ns, char* out) const {
  if (!shape_.named()) {
    const int bits = shape_.number_bits();
    const uint64_t field = (uint64_t{writer} << bits) | (number & ((uint64_t{1} << bits) - 1));
    const size_t digits =
        std::min<size_t>(shape_.size, static_cast<size_t>(bits + shape_.writer_bits() + 5) / 6);
    put(out, {0, digits}, field);
    for (size_t i = digits; i < shape_.size; ++i) out[i] = short_filler(field, i);
    return;
  }
  std::memcpy(out, kMagic.data(), kMagic.size());
  for (const size_t dot : kDots) out[dot] = '.';
  put(out, kRun, shape_.run);
  put(out, kWriter, writer);
  put(out, kNumber, number);
  put(out, kTime, static_cast<uint64_t>(time_ns));
  put(out, kLength, shape_.size);
  const size_t piece = (number * 61 + writer) % kTable;
  std::memcpy(out + kNamedSize, filler_.data() + piece, shape_.size - kNamedSize);
  put(out, kCheck, check_of(out, shape_.size));
}

LineReader::LineReader(const LineShape& shape) : shape_(shape) {}

ParsedLine LineReader::read_short(std::string_view text) const {
  ParsedLine parsed;
  if (text.size() != shape_.size) return parsed;
  const int bits = shape_.number_bits();
  const size_t digits =
      std::min<size_t>(shape_.size, static_cast<size_t>(bits + shape_.writer_bits() + 5) / 6);
  uint64_t field = 0;
  if (!take(text.data(), {0, digits}, field)) return parsed;
  parsed.end = text.size();
  parsed.writer = static_cast<uint32_t>(field >> bits);
  parsed.number = field & ((uint64_t{1} << bits) - 1);
  parsed.verdict = parsed.writer < shape_.writers ? Verdict::kGood : Verdict::kCorrupted;
  for (size_t i = digits; i < shape_.size; ++i) {
    if (text[i] != short_filler(field, i)) parsed.verdict = Verdict::kCorrupted;
  }
  return parsed;
}

ParsedLine LineReader::read(std::string_view text) const {
  if (!shape_.named()) return read_short(text);
  ParsedLine parsed;
  size_t at = 0;
  for (;; ++at) {
    at = text.find(kMagic, at);
    if (at == std::string_view::npos) return parsed;
    const char* line = text.data() + at;
    const size_t rest = text.size() - at;
    uint64_t run = 0;
    if (rest < kWriter.at || !take(line, kRun, run) || run != shape_.run) continue;
    parsed.verdict = Verdict::kCorrupted;
    parsed.begin = at;
    parsed.end = text.size();
    if (rest < kNamedSize) return parsed;
    uint64_t writer = 0, number = 0, time = 0, length = 0, check = 0;
    const bool read = take(line, kWriter, writer) && take(line, kNumber, number);
    parsed.located = read && writer < shape_.writers;
    parsed.writer = static_cast<uint32_t>(writer);
    parsed.number = number;
    if (!read || !take(line, kTime, time) || !take(line, kLength, length) ||
        !take(line, kCheck, check) || length != shape_.size || length > rest) {
      return parsed;
    }
    parsed.end = at + length;
    for (const size_t dot : kDots) {
      if (line[dot] != '.') return parsed;
    }
    if (check != check_of(line, length) || writer >= shape_.writers) return parsed;
    parsed.time_ns = static_cast<int64_t>(time);
    parsed.verdict = Verdict::kGood;
    return parsed;
  }
}

}  // namespace virtproxy::bench::lines
