#include "core/logs/line_splitter.h"

#include <algorithm>
#include <cstring>

namespace virtproxy::logs {
namespace {

// Digits of the length of a counted line: more than any line that is kept needs.
constexpr size_t kMostDigits = 9;

constexpr auto kLf = std::byte{'\n'};
constexpr auto kNul = std::byte{0};

const std::byte* find(std::span<const std::byte> bytes, std::byte what) {
  if (bytes.empty()) return nullptr;
  return static_cast<const std::byte*>(
      std::memchr(bytes.data(), static_cast<int>(what), bytes.size()));
}

}  // namespace

LineSplitter::LineSplitter(Framing framing, size_t max_line, Held& held)
    : framing_(framing), max_line_(std::max<size_t>(max_line, 16)), held_(held) {}

LineSplitter::~LineSplitter() { held_.now -= kept_.size(); }

void LineSplitter::begin() {
  held_.now -= kept_.size();
  kept_.clear();
  // What a long line needed is not kept for ever.
  if (kept_.capacity() > 4096) kept_.shrink_to_fit();
  line_ = {};
  length_ = count_ = 0;
  cut_ = false;
}

void LineSplitter::keep(std::span<const std::byte> bytes) {
  length_ += bytes.size();
  if (cut_ || bytes.empty()) return;
  const size_t room = std::min(max_line_ - std::min(max_line_, kept_.size()),
                               held_.most - std::min(held_.most, held_.now));
  const size_t taken = std::min(room, bytes.size());
  kept_.insert(kept_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(taken));
  held_.now += taken;
  cut_ = taken < bytes.size();
}

void LineSplitter::complete(std::span<const std::byte> last) {
  state_ = State::kStart;
  if (kept_.empty() && !cut_) {
    length_ = last.size();
    line_ = last.first(std::min(last.size(), max_line_));
    return;
  }
  keep(last);
  line_ = kept_;
}

// Digits, a space and '<', of which the last is part of the line.
bool LineSplitter::read_prefix(std::span<const std::byte>& bytes) {
  while (!bytes.empty()) {
    const auto c = static_cast<unsigned char>(bytes.front());
    const bool spaced = !kept_.empty() && kept_.back() == std::byte{' '};
    if (spaced && c == '<') {
      const uint64_t count = count_;
      begin();
      count_ = count;
      state_ = State::kCounted;
      return true;
    }
    const bool first = kept_.empty();
    const bool digit =
        !spaced && c >= (first ? '1' : '0') && c <= '9' && kept_.size() < kMostDigits;
    const bool space = !spaced && !first && c == ' ';
    if (!digit && !space) {
      state_ = State::kText;
      return true;
    }
    if (digit) count_ = count_ * 10 + (c - '0');
    // Kept whatever the others hold: without it the ends of this line and the next would be lost.
    kept_.push_back(bytes.front());
    ++held_.now;
    ++length_;
    bytes = bytes.subspan(1);
  }
  return false;
}

bool LineSplitter::next(std::span<const std::byte>& bytes) {
  if (state_ == State::kStart) {
    begin();
    if (bytes.empty()) return false;
    const bool leave_out = after_counted_ && bytes.front() == kLf;
    after_counted_ = false;
    if (leave_out) bytes = bytes.subspan(1);
    if (bytes.empty()) return false;
    state_ = framing_ == Framing::kAuto ? State::kPrefix : State::kText;
  }
  if (state_ == State::kPrefix && !read_prefix(bytes)) return false;
  if (state_ == State::kCounted) {
    const auto part = bytes.first(static_cast<size_t>(std::min<uint64_t>(count_, bytes.size())));
    bytes = bytes.subspan(part.size());
    count_ -= part.size();
    if (count_ > 0) {
      keep(part);
      return false;
    }
    complete(part);
    after_counted_ = true;
    return true;
  }
  const std::byte* end = framing_ == Framing::kNul ? nullptr : find(bytes, kLf);
  if (framing_ != Framing::kLf) {
    const size_t before = end != nullptr ? static_cast<size_t>(end - bytes.data()) : bytes.size();
    if (const std::byte* nul = find(bytes.first(before), kNul)) end = nul;
  }
  if (end == nullptr) {
    keep(bytes);
    bytes = {};
    return false;
  }
  const auto size = static_cast<size_t>(end - bytes.data());
  complete(bytes.first(size));
  bytes = bytes.subspan(size + 1);
  return true;
}

bool LineSplitter::finish() {
  if (state_ == State::kStart || (length_ == 0 && kept_.empty() && state_ != State::kCounted)) {
    begin();
    return false;
  }
  complete({});
  return true;
}

}  // namespace virtproxy::logs
