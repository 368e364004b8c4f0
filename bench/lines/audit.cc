#include "lines/audit.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace virtproxy::bench::lines {

void WriterCount::add(const WriterCount& other) {
  delivered += other.delivered;
  doubled += other.doubled;
  reordered += other.reordered;
  corrupted += other.corrupted;
}

void ToldDrops::add(std::string_view reason, uint64_t count) {
  ++records;
  lines += count;
  const auto found = std::find_if(reasons.begin(), reasons.end(),
                                  [reason](const auto& each) { return each.first == reason; });
  if (found != reasons.end()) {
    found->second += count;
  } else if (reasons.size() < 64) {  // a daemon has fewer; a broken one is not let grow this
    reasons.emplace_back(reason, count);
  }
}

Audit::Audit(const LineShape& shape)
    : shape_(shape), tracks_(shape.writers), counts_(shape.writers) {}

// The number nearest to the one expected that ends in these bits.
uint64_t Audit::unwrap(const Track& track, uint64_t low) const {
  const int bits = shape_.number_bits();
  const uint64_t cycle = uint64_t{1} << bits;
  const uint64_t expected = track.highest;
  uint64_t number = (expected & ~(cycle - 1)) | low;
  if (number > expected && number - expected > cycle / 2 && number >= cycle) {
    number -= cycle;
  } else if (number < expected && expected - number > cycle / 2) {
    number += cycle;
  }
  return number;
}

void Audit::arrived(const ParsedLine& line, int64_t now_ns, uint64_t sent) {
  ++arrivals_;
  if (line.verdict == Verdict::kForeign) {
    ++foreign_;
    return;
  }
  WriterCount& count = counts_[line.writer < counts_.size() ? line.writer : 0];
  if (line.verdict == Verdict::kCorrupted) {
    ++count.corrupted;
    return;
  }
  Track& track = tracks_[line.writer];
  const uint64_t number = shape_.named() ? line.number : unwrap(track, line.number);
  // No writer has used this number: bytes that pass the check and were never written.
  if (number >= sent) {
    ++count.corrupted;
    return;
  }
  const size_t word = number / 64;
  const uint64_t bit = uint64_t{1} << (number % 64);
  if (word >= track.seen.size())
    track.seen.resize(std::max<size_t>(word + 1, track.seen.size() * 2));
  if ((track.seen[word] & bit) != 0) {
    ++count.doubled;
    return;
  }
  track.seen[word] |= bit;
  ++count.delivered;
  ++delivered_;
  if (number < track.highest) {
    ++count.reordered;
  } else {
    track.highest = number + 1;
  }
  if (line.time_ns > 0) {
    const auto age = static_cast<uint64_t>(std::max<int64_t>(now_ns - line.time_ns, 0));
    ages_.record(age);
    interval_ages_.record(age);
  }
}

WriterCount Audit::total() const {
  WriterCount sum;
  for (const WriterCount& count : counts_) sum.add(count);
  return sum;
}

Histogram Audit::take_interval_ages() { return std::exchange(interval_ages_, Histogram()); }

std::string Audit::describe_missing(uint32_t writer, uint64_t sent, size_t most) const {
  const std::vector<uint64_t>& seen = tracks_[writer].seen;
  const auto arrived = [&seen](uint64_t number) {
    const size_t word = number / 64;
    return word < seen.size() && (seen[word] >> (number % 64) & 1) != 0;
  };
  std::string text;
  size_t ranges = 0;
  for (uint64_t at = 0; at < sent;) {
    if (arrived(at)) {
      ++at;
      continue;
    }
    uint64_t end = at;
    while (end < sent && !arrived(end)) ++end;
    if (ranges++ == most) return text + ", …";
    text += fmt::format("{}{}", text.empty() ? "" : ", ", at);
    if (end - at > 1) text += fmt::format("-{}", end - 1);
    at = end;
  }
  return text;
}

}  // namespace virtproxy::bench::lines
