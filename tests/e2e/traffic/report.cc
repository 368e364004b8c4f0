#include "report.h"

#include <algorithm>
#include <cstdio>

namespace virtproxy::traffic {
namespace {

std::string Quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else {
      out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return out + '"';
}

}  // namespace

Json& Json::Raw(std::string_view key, std::string_view value) {
  if (!body_.empty()) body_ += ", ";
  body_ += Quote(key);
  body_ += ": ";
  body_ += value;
  return *this;
}

Json& Json::Set(std::string_view key, std::string_view value) { return Raw(key, Quote(value)); }

Json& Json::Set(std::string_view key, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.3f", value);
  return Raw(key, text);
}

void Json::Print() const {
  std::printf("%s\n", Text().c_str());
  std::fflush(stdout);
}

void Complain(const std::string& text) {
  std::fprintf(stderr, "virtproxy-traffic: %s\n", text.c_str());
}

Json Latencies::Summary() const {
  std::vector<double> sorted = values_;
  std::sort(sorted.begin(), sorted.end());
  const auto at = [&sorted](double share) {
    if (sorted.empty()) return 0.0;
    const auto index = static_cast<size_t>(share * static_cast<double>(sorted.size()));
    return sorted[std::min(index, sorted.size() - 1)];
  };
  Json json;
  json.Set("count", static_cast<uint64_t>(sorted.size()))
      .Set("p50_ms", at(0.50))
      .Set("p99_ms", at(0.99))
      .Set("max_ms", sorted.empty() ? 0.0 : sorted.back());
  return json;
}

}  // namespace virtproxy::traffic
