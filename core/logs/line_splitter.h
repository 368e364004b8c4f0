// Cuts a stream of bytes into lines, as the sources that are no datagrams send them.
//
// A line ends with LF or NUL, or its length stands before it: "62 <13>1 2026-…" (octet counting,
// RFC 6587 section 3.4.1). With kAuto each line tells: one that begins with a number, a space and
// '<' is counted, any other ends at the first LF or NUL. The LF that some senders put behind a
// counted line is left out. What frames a line is no part of it; all other bytes are.
//
// A line that has arrived in part is kept. What is kept is bounded twice: by the longest line, and
// by `Held`, which all splitters of a process share. Beyond either bound the line keeps its head,
// and its other bytes are only counted. What may be the length of a line, 10 bytes at most, is kept
// beyond `Held` as well.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace virtproxy::logs {

enum class Framing : uint8_t { kAuto, kLf, kNul };

class LineSplitter {
 public:
  // Bytes of lines that have arrived in part.
  struct Held {
    size_t most = 0;
    size_t now = 0;
  };

  // `held` outlives the splitter. `max_line`: bytes, at least 16.
  LineSplitter(Framing framing, size_t max_line, Held& held);
  ~LineSplitter();
  LineSplitter(const LineSplitter&) = delete;
  LineSplitter& operator=(const LineSplitter&) = delete;

  // Takes bytes from the front of `bytes` until a line is complete. False: all were taken, and the
  // line goes on.
  bool next(std::span<const std::byte>& bytes);
  // The stream has ended: true if there is a line without an end.
  bool finish();

  // The line, or its head. It lies in the bytes that next() was given, or here: valid until the
  // next call.
  std::span<const std::byte> line() const { return line_; }
  uint64_t full_length() const { return length_; }

 private:
  enum class State : uint8_t {
    kStart,
    kPrefix,  // what may be the length of a counted line
    kText,
    kCounted
  };

  // False: more bytes are needed to tell.
  bool read_prefix(std::span<const std::byte>& bytes);
  void keep(std::span<const std::byte> bytes);
  void begin();
  // The line ends with `last`.
  void complete(std::span<const std::byte> last);

  const Framing framing_;
  const size_t max_line_;
  Held& held_;
  State state_ = State::kStart;
  bool after_counted_ = false;  // an LF now belongs to the line before
  bool cut_ = false;            // nothing more of this line is kept
  uint64_t count_ = 0;          // of a counted line, or of what may be one
  uint64_t length_ = 0;         // bytes of the line so far
  std::vector<std::byte> kept_;
  std::span<const std::byte> line_;
};

}  // namespace virtproxy::logs
