// Cuts the bytes of a port or stream into lines (PROTOCOL.md, section 1).
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace virtproxy::agent {

inline constexpr std::byte kResetByte{0xff};

class LineReader {
 public:
  // Lines of up to `longest` bytes. The memory for one is allocated here and nowhere else.
  explicit LineReader(size_t longest) : longest_(longest) { line_.reserve(longest); }

  enum class Kind {
    kLine,
    kReset,    // a byte 0xFF: what was read of a line is dropped
    kTooLong,  // the line is longer than allowed; the rest of it is skipped, to its LF or a 0xFF
  };
  struct Item {
    Kind kind;
    std::string_view line;  // valid until the next call
  };

  // Takes bytes from the front of `bytes`, up to the end of one item. Nothing once all are taken.
  std::optional<Item> next(std::span<const std::byte>& bytes);

  // Forgets what was read of a line.
  void reset();

  // Bytes held of a line that has not ended.
  size_t held() const { return state_ == State::kEnded ? 0 : line_.size(); }

 private:
  enum class State { kReading, kEnded, kSkipping };

  const size_t longest_;
  std::string line_;
  State state_ = State::kReading;
};

}  // namespace virtproxy::agent
