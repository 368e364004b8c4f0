#include "histogram_log.h"

#include <fmt/format.h>
#include <zlib.h>

#include <bit>
#include <string_view>

#include "failure.h"

namespace virtproxy::bench {
namespace {

// The V2 encoding and its compressed form; the low byte's 0x10 says that counts have up to 9 bytes.
constexpr uint32_t kCookie = 0x1c849303 | 0x10;
constexpr uint32_t kCompressedCookie = 0x1c849304 | 0x10;
constexpr uint32_t kSignificantDigits = 2;
static_assert(Histogram::kSubBits == 7, "two significant digits take 128 buckets a power of two");

template <typename T>
void put_big_endian(std::vector<uint8_t>& out, T value) {
  for (size_t i = sizeof(T); i-- > 0;) out.push_back(static_cast<uint8_t>(value >> (i * 8)));
}

// ZigZag and LEB128; the ninth byte, if there is one, has eight bits.
void put_zigzag(std::vector<uint8_t>& out, int64_t value) {
  uint64_t rest = (static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63);
  for (int i = 0; i < 8; ++i) {
    if (rest < 0x80) {
      out.push_back(static_cast<uint8_t>(rest));
      return;
    }
    out.push_back(static_cast<uint8_t>(rest | 0x80));
    rest >>= 7;
  }
  out.push_back(static_cast<uint8_t>(rest));
}

std::vector<uint8_t> encode_counts(const std::vector<uint64_t>& counts) {
  size_t used = counts.size();
  while (used > 0 && counts[used - 1] == 0) --used;
  std::vector<uint8_t> out;
  for (size_t i = 0; i < used;) {
    size_t zeros = 0;
    while (i + zeros < used && counts[i + zeros] == 0) ++zeros;
    if (zeros > 0) {
      put_zigzag(out, -static_cast<int64_t>(zeros));
      i += zeros;
    } else {
      put_zigzag(out, static_cast<int64_t>(counts[i++]));
    }
  }
  return out;
}

}  // namespace

std::vector<uint8_t> encode_histogram(const Histogram& histogram) {
  const std::vector<uint8_t> counts = encode_counts(histogram.buckets());
  std::vector<uint8_t> plain;
  put_big_endian<uint32_t>(plain, kCookie);
  put_big_endian<uint32_t>(plain, static_cast<uint32_t>(counts.size()));
  put_big_endian<uint32_t>(plain, 0);  // normalizing index offset
  put_big_endian<uint32_t>(plain, kSignificantDigits);
  put_big_endian<uint64_t>(plain, 1);  // lowest value that is told from 0
  put_big_endian<uint64_t>(plain, (uint64_t{1} << Histogram::kMaxBits) - 1);
  put_big_endian<uint64_t>(plain, std::bit_cast<uint64_t>(1.0));  // integer to double ratio
  plain.insert(plain.end(), counts.begin(), counts.end());

  std::vector<uint8_t> packed(::compressBound(plain.size()));
  uLongf size = packed.size();
  if (::compress2(packed.data(), &size, plain.data(), plain.size(), Z_DEFAULT_COMPRESSION) !=
      Z_OK) {
    throw Failure(Outcome::kUsage, "cannot compress the histogram");
  }
  packed.resize(size);
  std::vector<uint8_t> out;
  put_big_endian<uint32_t>(out, kCompressedCookie);
  put_big_endian<uint32_t>(out, static_cast<uint32_t>(packed.size()));
  out.insert(out.end(), packed.begin(), packed.end());
  return out;
}

std::string base64(const std::vector<uint8_t>& bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t left = bytes.size() - i;
    const uint32_t group = static_cast<uint32_t>(bytes[i]) << 16 |
                           static_cast<uint32_t>(left > 1 ? bytes[i + 1] : 0) << 8 |
                           static_cast<uint32_t>(left > 2 ? bytes[i + 2] : 0);
    out += kDigits[group >> 18];
    out += kDigits[group >> 12 & 63];
    out += left > 1 ? kDigits[group >> 6 & 63] : '=';
    out += left > 2 ? kDigits[group & 63] : '=';
  }
  return out;
}

HistogramLog::HistogramLog(const std::string& path, double start_seconds)
    : path_(path), file_(path, std::ios::trunc) {
  if (!file_) throw file_failure("write", path);
  file_ << fmt::format(
      "#[Histogram log format version 1.3]\n"
      "#[StartTime: {:.3f} (seconds since epoch)]\n"
      "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
      start_seconds);
}

void HistogramLog::add(double since_start, double seconds, const Histogram& histogram) {
  file_ << fmt::format("{:.3f},{:.3f},{:.3f},{}\n", since_start, seconds,
                       static_cast<double>(histogram.max()) / 1e6,
                       base64(encode_histogram(histogram)));
}

void HistogramLog::close() {
  file_.close();
  if (!file_) throw file_failure("write", path_);
}

}  // namespace virtproxy::bench
