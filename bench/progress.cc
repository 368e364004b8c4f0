#include "progress.h"

#include <fmt/format.h>

#include <cstdio>

#include "clock.h"

namespace virtproxy::bench {
namespace {

constexpr int64_t kInterval = 250 * kMillisecond;

}  // namespace

void ProgressLine::show(const char* phase, int64_t now, int64_t phase_start, uint64_t bytes,
                        uint64_t messages) {
  if (!enabled_ || now - shown_at_ < kInterval) return;
  const double seconds = static_cast<double>(now - shown_at_) / kSecond;
  std::string line = fmt::format("{} {}: {:.1f} s", mode_name(plan_.mode), phase,
                                 static_cast<double>(now - phase_start) / kSecond);
  if (shown_at_ != 0) {
    if (plan_.stream_count() > 0) {
      line += fmt::format(", {:.3f} GB/s", static_cast<double>(bytes - bytes_) / seconds / 1e9);
    }
    if (plan_.counts_messages()) {
      line += fmt::format(", {:.0f} {}/s", static_cast<double>(messages - messages_) / seconds,
                          plan_.mode == Mode::kChurn ? "connections" : "messages");
    }
  }
  fmt::print(stderr, "\r\033[K{}", line);
  std::fflush(stderr);
  shown_at_ = now;
  bytes_ = bytes;
  messages_ = messages;
}

void ProgressLine::clear() {
  if (!enabled_ || shown_at_ == 0) return;
  fmt::print(stderr, "\r\033[K");
  std::fflush(stderr);
  shown_at_ = 0;
}

}  // namespace virtproxy::bench
