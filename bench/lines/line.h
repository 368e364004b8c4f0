// The numbered lines of the load `lines`: what a writer makes of (writer, number), and what the far
// end learns from the bytes that arrive. No system call.
//
// A line of 48 bytes and more names itself, so that it is found inside of whatever format a log
// daemon puts around it:
//
//   vpl1.RRRRR.WW.SSSSSSS.TTTTTTTTTTT.LLLL.CCCCCCCC.filler
//
//   R  run             30 bits    numbers in 64 digits, A-Z a-z 0-9 - and _, most significant first
//   W  writer          12 bits
//   S  number          42 bits    from 0 for each writer
//   T  time            64 bits    CLOCK_MONOTONIC of the write, or of the time it was due,
//   nanoseconds L  length          24 bits    of the whole, "vpl1." included C  check           48
//   bits    of XXH3-64 of all other bytes
//
// A shorter line is one field of 6 bits a byte, in the same digits: the low bits of the number,
// then those of the writer. What is left is filled with a function of both, which is compared. A
// line so short holds no time and no name of the run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace virtproxy::bench::lines {

inline constexpr size_t kNamedSize = 48;
inline constexpr size_t kLargestLine = size_t{1} << 20;
inline constexpr size_t kMaxWriters = 4096;
inline constexpr std::string_view kMagic = "vpl1.";

// What the filler of a line consists of.
enum class Content {
  kText,   // printable ASCII without quotes, backslashes and digits of a header
  kBytes,  // every byte but LF: NUL, control characters, bytes that are no UTF-8
  kAll,    // LF as well, for ways that keep the boundaries of messages
};

struct LineShape {
  size_t size = 200;
  size_t writers = 1;
  uint32_t run = 0;  // 30 bits
  Content content = Content::kText;

  bool named() const { return size >= kNamedSize; }
  // Of a short line: bits of the writer and of the number.
  int writer_bits() const;
  int number_bits() const;
};

// Nothing when lines of this shape can be told apart, else why not.
std::string why_unusable(const LineShape& shape);

class LineMaker {
 public:
  explicit LineMaker(const LineShape& shape);

  // Writes shape.size bytes.
  void make(uint32_t writer, uint64_t number, int64_t time_ns, char* out) const;

 private:
  const LineShape shape_;
  std::vector<char> filler_;  // a table; each line takes a piece of it
};

enum class Verdict {
  kGood,
  kCorrupted,  // it names this run, and something in it is wrong
  kForeign,    // it is no line of this run
};

struct ParsedLine {
  Verdict verdict = Verdict::kForeign;
  uint32_t writer = 0;
  // Of a short line, its low number_bits() alone. Of a corrupted line it is what the line claims.
  uint64_t number = 0;
  bool located = false;  // writer and number could be read
  int64_t time_ns = 0;   // 0: the line holds none
  // Where the line begins and ends in the text that was given.
  size_t begin = 0;
  size_t end = 0;
};

class LineReader {
 public:
  explicit LineReader(const LineShape& shape);

  // Looks for a line that names itself anywhere in `text`. Short lines: the whole text is one.
  ParsedLine read(std::string_view text) const;

 private:
  ParsedLine read_short(std::string_view text) const;

  const LineShape shape_;
};

}  // namespace virtproxy::bench::lines
