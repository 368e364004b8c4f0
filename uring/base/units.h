// Numbers, sizes and times: how they are read from text and shown in messages. Every program of the
// tree reads them here.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <tl/expected.hpp>

namespace virtproxy {

// The whole text as an unsigned number: digits of the base alone, no sign and no blank. Nothing for
// any other text and for a number that T cannot hold.
template <typename T>
std::optional<T> parse_number(std::string_view text, int base = 10) {
  static_assert(static_cast<T>(-1) > T{0}, "from_chars() would take a sign");
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, base);
  if (text.empty() || stop != end || error != std::errc()) return std::nullopt;
  return value;
}

// A count. One that is too large for 64 bits gives the largest there is, so that the caller's range
// is what refuses it.
tl::expected<uint64_t, std::string> parse_count(std::string_view text);

// A size in bytes: digits and an optional K, M, G or T (KiB, MiB and so on are the same, all powers
// of 1024).
tl::expected<uint64_t, std::string> parse_size(std::string_view text);

// A time in seconds: a decimal number with an optional ms, s or m.
tl::expected<double, std::string> parse_seconds(std::string_view text);

// 268435456 as 256M.
std::string format_size(uint64_t bytes);

// 0.5 as 0.5, 60.0 as 60.
std::string format_seconds(double seconds);

}  // namespace virtproxy
