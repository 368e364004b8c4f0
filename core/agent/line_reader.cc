#include "core/agent/line_reader.h"

#include <algorithm>

namespace virtproxy::agent {

void LineReader::reset() {
  line_.clear();
  state_ = State::kReading;
}

std::optional<LineReader::Item> LineReader::next(std::span<const std::byte>& bytes) {
  if (state_ == State::kEnded) reset();
  while (!bytes.empty()) {
    const auto end = std::find_if(bytes.begin(), bytes.end(), [](std::byte byte) {
      return byte == std::byte{'\n'} || byte == kResetByte;
    });
    const auto size = static_cast<size_t>(end - bytes.begin());
    if (state_ == State::kReading) {
      const size_t taken = std::min(size, longest_ - line_.size());
      line_.append(reinterpret_cast<const char*>(bytes.data()), taken);
      if (taken < size) {
        bytes = bytes.subspan(taken);
        line_.clear();
        state_ = State::kSkipping;
        return Item{Kind::kTooLong, {}};
      }
    }
    bytes = bytes.subspan(size);
    if (bytes.empty()) break;
    const std::byte last = bytes.front();
    bytes = bytes.subspan(1);
    if (last == kResetByte) {
      reset();
      return Item{Kind::kReset, {}};
    }
    if (state_ == State::kSkipping) {
      reset();
      continue;
    }
    state_ = State::kEnded;
    return Item{Kind::kLine, line_};
  }
  return std::nullopt;
}

}  // namespace virtproxy::agent
