#include "core/logs/line_splitter.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace virtproxy::logs {
namespace {

using Lines = std::vector<std::string>;

struct Cut {
  Lines lines;
  std::vector<uint64_t> lengths;
  bool operator==(const Cut&) const = default;
};

void take(const LineSplitter& splitter, Cut& cut) {
  const auto line = splitter.line();
  cut.lines.emplace_back(reinterpret_cast<const char*>(line.data()), line.size());
  cut.lengths.push_back(splitter.full_length());
}

// Fed in parts of the sizes that `size_of` gives.
template <typename SizeOf>
Cut cut(Framing framing, size_t max_line, size_t most_held, const std::string& text,
        SizeOf size_of) {
  LineSplitter::Held held{most_held};
  Cut result;
  {
    LineSplitter splitter(framing, max_line, held);
    for (size_t at = 0; at < text.size();) {
      const size_t size = std::min<size_t>(text.size() - at, size_of());
      // A copy of its own, so that a line that points behind its part is seen.
      const std::string part = text.substr(at, size);
      auto bytes = std::as_bytes(std::span(part));
      while (splitter.next(bytes)) take(splitter, result);
      EXPECT_TRUE(bytes.empty());
      EXPECT_LE(held.now, most_held);
      at += size;
    }
    if (splitter.finish()) take(splitter, result);
    EXPECT_FALSE(splitter.finish());
  }
  EXPECT_EQ(held.now, 0U);
  return result;
}

Lines whole(Framing framing, const std::string& text) {
  const Cut all = cut(framing, 1000, 1 << 20, text, [] { return SIZE_MAX; });
  EXPECT_EQ(cut(framing, 1000, 1 << 20, text, [] { return 1; }), all) << "byte by byte";
  for (size_t i = 0; i < all.lines.size(); ++i) EXPECT_EQ(all.lines[i].size(), all.lengths[i]);
  return all.lines;
}

using namespace std::string_literals;

TEST(LineSplitterTest, EachLineTellsHowItIsFramed) {
  EXPECT_EQ(whole(Framing::kAuto, "one\ntwo\0\n5 <1>xythree\n4 <2>\n\nfour"s),
            (Lines{"one", "two", "", "<1>xy", "three", "<2>\n", "four"}))
      << "the LF behind a counted line is left out, the one in it is not";
  EXPECT_EQ(whole(Framing::kAuto, "12 monkeys\n1234567890 <\n007 <1>\n5 \n9\n"),
            (Lines{"12 monkeys", "1234567890 <", "007 <1>", "5 ", "9"}))
      << "numbers that count nothing";
  EXPECT_EQ(whole(Framing::kAuto, "12"), (Lines{"12"}));
  EXPECT_EQ(whole(Framing::kAuto, "9 <1>abc"), (Lines{"<1>abc"})) << "cut off by the end";
  EXPECT_EQ(whole(Framing::kAuto, ""), (Lines{}));
}

TEST(LineSplitterTest, AFixedFramingKeepsEveryOtherByte) {
  EXPECT_EQ(whole(Framing::kLf, "a\0b\n\xff\xfe\n5 <1>xy\n"s),
            (Lines{"a\0b"s, "\xff\xfe", "5 <1>xy"}));
  EXPECT_EQ(whole(Framing::kNul, "a\nb\0\0c"s), (Lines{"a\nb", "", "c"}));
}

TEST(LineSplitterTest, LongLinesKeepTheirHead) {
  const std::string text = std::string(100, 'x') + "\nshort\n70 <" + std::string(69, 'y') + "z\n";
  for (const size_t part : {size_t{1}, size_t{7}, SIZE_MAX}) {
    const Cut all = cut(Framing::kAuto, 16, 1 << 20, text, [&] { return part; });
    EXPECT_EQ(all.lines, (Lines{std::string(16, 'x'), "short", "<" + std::string(15, 'y'), "z"}));
    EXPECT_EQ(all.lengths, (std::vector<uint64_t>{100, 5, 70, 1}));
  }
}

// The full lengths of the lines that the text completes.
std::vector<uint64_t> lengths_of(LineSplitter& splitter, const std::string& text) {
  auto bytes = std::as_bytes(std::span(text));
  std::vector<uint64_t> lengths;
  while (splitter.next(bytes)) lengths.push_back(splitter.full_length());
  return lengths;
}

TEST(LineSplitterTest, WhatIsKeptIsBoundedForAllTogether) {
  LineSplitter::Held held{10};
  LineSplitter one(Framing::kLf, 100, held);
  LineSplitter other(Framing::kLf, 100, held);
  EXPECT_TRUE(lengths_of(one, "12345678").empty());
  EXPECT_TRUE(lengths_of(other, "12345678").empty());
  EXPECT_EQ(held.now, 10U);
  const std::string end = "9\n";
  auto bytes = std::as_bytes(std::span(end));
  ASSERT_TRUE(other.next(bytes));
  EXPECT_EQ(other.line().size(), 2U);
  EXPECT_EQ(other.full_length(), 9U) << "the rest is counted";
  EXPECT_TRUE(lengths_of(other, "").empty());
  EXPECT_EQ(held.now, 8U) << "its part is free again";
}

// Else it would be taken for a line that ends with LF.
TEST(LineSplitterTest, ACountedLineIsOneAlsoWhereNothingMoreMayBeKept) {
  LineSplitter::Held held{4};
  LineSplitter one(Framing::kLf, 100, held);
  LineSplitter other(Framing::kAuto, 100, held);
  EXPECT_TRUE(lengths_of(one, "12345678").empty());
  ASSERT_EQ(held.now, 4U);
  std::vector<uint64_t> lengths;
  for (const std::string part : {"1", "2 ", "<13>", "a\nbcdefg", "5 <13>x"}) {
    for (const uint64_t length : lengths_of(other, part)) lengths.push_back(length);
  }
  EXPECT_EQ(lengths, (std::vector<uint64_t>{12, 5}));
  EXPECT_EQ(held.now, 4U);
}

// However a stream is cut into parts, its lines are the same.
TEST(LineSplitterTest, PartsMakeNoDifference) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (int i = 0; i < 60; ++i) {
      const char alphabet[] = {'\n', '\0', ' ', '<', '1', '3', 'a', '\xff'};
      text += alphabet[random() % std::size(alphabet)];
      if (random() % 8 == 0) text += "3 <";
    }
    for (const Framing framing : {Framing::kAuto, Framing::kLf, Framing::kNul}) {
      const Cut all = cut(framing, 20, 1 << 20, text, [] { return SIZE_MAX; });
      const Cut parts = cut(framing, 20, 1 << 20, text, [&] { return 1 + random() % 5; });
      ASSERT_EQ(parts, all) << round;
    }
  }
}

}  // namespace
}  // namespace virtproxy::logs
