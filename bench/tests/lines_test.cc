#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "lines/audit.h"
#include "lines/line.h"
#include "lines/message.h"

namespace virtproxy::bench::lines {
namespace {

std::string make(const LineShape& shape, uint32_t writer, uint64_t number, int64_t time = 5) {
  std::string line(shape.size, '\0');
  LineMaker(shape).make(writer, number, time, line.data());
  return line;
}

TEST(Line, NamesItselfAtEverySizeAndContent) {
  for (const Content content : {Content::kText, Content::kBytes, Content::kAll}) {
    for (const size_t size : {size_t{48}, size_t{49}, size_t{200}, size_t{70'000}, kLargestLine}) {
      const LineShape shape{size, 4096, 77, content};
      const std::string line = make(shape, 4095, (uint64_t{1} << 42) - 1, 123'456'789'012);
      const ParsedLine parsed = LineReader(shape).read("<13>host: " + line);
      ASSERT_EQ(parsed.verdict, Verdict::kGood) << size;
      EXPECT_EQ(parsed.writer, 4095u);
      EXPECT_EQ(parsed.number, (uint64_t{1} << 42) - 1);
      EXPECT_EQ(parsed.time_ns, 123'456'789'012);
      EXPECT_EQ(parsed.begin, 10u);
      EXPECT_EQ(parsed.end, 10 + size);
    }
  }
}

TEST(Line, ContentHoldsWhatItPromises) {
  const auto distinct = [](Content content) {
    const LineShape shape{100'000, 1, 9, content};
    const std::string line = make(shape, 0, 1);
    return std::vector<size_t>{std::string(line).find('\n'), line.find('\0'), line.find('"'),
                               line.find('\xff')};
  };
  constexpr size_t kNone = std::string::npos;
  EXPECT_EQ(distinct(Content::kText), (std::vector<size_t>{kNone, kNone, kNone, kNone}));
  const auto bytes = distinct(Content::kBytes);
  EXPECT_EQ(bytes[0], kNone);
  for (size_t i = 1; i < 4; ++i) EXPECT_NE(bytes[i], kNone) << i;
  for (const size_t at : distinct(Content::kAll)) EXPECT_NE(at, kNone);
}

TEST(Line, EveryWrongByteShows) {
  const LineShape shape{120, 3, 5, Content::kText};
  const std::string good = make(shape, 2, 1000);
  const LineReader reader(shape);
  for (size_t i = 0; i < good.size(); ++i) {
    for (const int bit : {0, 3, 6}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      EXPECT_NE(reader.read(bad).verdict, Verdict::kGood) << i;
    }
  }
  EXPECT_EQ(reader.read(good.substr(0, 119)).verdict, Verdict::kCorrupted);
  EXPECT_EQ(reader.read(good.substr(0, 20)).verdict, Verdict::kCorrupted);
  EXPECT_EQ(LineReader({120, 3, 6, Content::kText}).read(good).verdict, Verdict::kForeign);
  EXPECT_EQ(reader.read("some other program").verdict, Verdict::kForeign);
}

TEST(Line, ShortOnesAreToldApart) {
  for (size_t size = 1; size < kNamedSize; ++size) {
    const LineShape shape{size, size < 4 ? 1u : 16u, 1, Content::kText};
    ASSERT_EQ(why_unusable(shape), "");
    const LineReader reader(shape);
    const uint32_t writer = size < 4 ? 0 : 13;
    const ParsedLine parsed = reader.read(make(shape, writer, 1'000'003));
    ASSERT_EQ(parsed.verdict, Verdict::kGood) << size;
    EXPECT_EQ(parsed.writer, writer);
    EXPECT_EQ(parsed.number, 1'000'003 & ((uint64_t{1} << shape.number_bits()) - 1));
  }
  EXPECT_NE(why_unusable({1, 2, 1, Content::kText}), "");
  EXPECT_NE(why_unusable({0, 1, 1, Content::kText}), "");
  EXPECT_NE(why_unusable({kLargestLine + 1, 1, 1, Content::kText}), "");
}

class AuditTest : public testing::Test {
 protected:
  void arrive(uint64_t number, uint32_t writer = 0) {
    audit_.arrived(LineReader(shape_).read(make(shape_, writer, number)), 1005, 1'000'000);
  }
  LineShape shape_{100, 2, 3, Content::kText};
  Audit audit_{shape_};
};

TEST_F(AuditTest, CountsWhatIsDoubledReorderedAndMissing) {
  for (const uint64_t number : {0, 1, 5, 3, 5, 1, 6}) arrive(number);
  arrive(0, 1);
  const WriterCount& count = audit_.writers()[0];
  EXPECT_EQ(count.delivered, 5u);
  EXPECT_EQ(count.doubled, 2u);
  EXPECT_EQ(count.reordered, 1u);
  EXPECT_EQ(audit_.writers()[1].delivered, 1u);
  EXPECT_EQ(audit_.total().delivered, 6u);
  EXPECT_EQ(audit_.describe_missing(0, 10, 4), "2, 4, 7-9");
  EXPECT_EQ(audit_.describe_missing(0, 10, 1), "2, …");
  EXPECT_EQ(audit_.ages().count(), 6u);
  EXPECT_EQ(audit_.ages().max(), 1000u);
}

TEST_F(AuditTest, WhatWasNeverWrittenIsCorrupted) {
  const ParsedLine line = LineReader(shape_).read(make(shape_, 0, 10));
  audit_.arrived(line, 0, 10);
  EXPECT_EQ(audit_.total().corrupted, 1u);
  audit_.arrived(line, 0, 11);
  EXPECT_EQ(audit_.total().delivered, 1u);
}

TEST_F(AuditTest, DropRecordsAddUp) {
  audit_.told("newest", 3);
  audit_.told("oldest", 4);
  audit_.told("newest", 5);
  EXPECT_EQ(audit_.told().lines, 12u);
  EXPECT_EQ(audit_.told().records, 3u);
  EXPECT_EQ(audit_.told().reasons[0], (std::pair<std::string, uint64_t>("newest", 8)));
}

// A byte holds 6 bits of the number; the rest follows from what came before.
TEST(AuditOfShortLines, OneByteCountsOnAcrossItsCycle) {
  const LineShape shape{1, 1, 1, Content::kText};
  Audit audit(shape);
  const auto arrive = [&](uint64_t number) {
    audit.arrived(LineReader(shape).read(make(shape, 0, number)), 0, 1'000'000);
  };
  for (uint64_t number = 0; number < 1000; ++number) {
    if (number >= 500 && number < 520) continue;  // lost
    arrive(number);
    if (number == 700) arrive(number);  // doubled
  }
  EXPECT_EQ(audit.total().delivered, 980u);
  EXPECT_EQ(audit.total().doubled, 1u);
  EXPECT_EQ(audit.total().reordered, 0u);
  EXPECT_EQ(audit.describe_missing(0, 1000, 4), "500-519");
}

std::vector<std::string> cut(Framing framing, std::string_view stream, size_t piece) {
  MessageSplitter splitter(framing);
  std::vector<std::string> found;
  for (size_t at = 0; at < stream.size(); at += piece) {
    splitter.feed(stream.substr(at, piece),
                  [&found](std::string_view message) { found.emplace_back(message); });
  }
  return found;
}

TEST(Messages, AreCutInEveryFramingHoweverTheBytesArrive) {
  for (const size_t piece : {1u, 2u, 3u, 7u, 100u}) {
    EXPECT_EQ(cut(Framing::kLf, "one\ntwo\n\n12 x\nrest", piece),
              (std::vector<std::string>{"one", "two", "", "12 x"}));
    EXPECT_EQ(cut(Framing::kAuto, "5 a\nb c3 xyzplain\n{}\n4 <1>!", piece),
              (std::vector<std::string>{"a\nb c", "xyz", "plain", "{}", "<1>!"}));
  }
}

TEST(Messages, LongerThanAnythingIsSkipped) {
  MessageSplitter splitter(Framing::kLf);
  size_t found = 0;
  const auto count = [&found](std::string_view) { ++found; };
  const std::string piece(1 << 20, 'x');
  for (int i = 0; i < 9; ++i) splitter.feed(piece, count);
  EXPECT_EQ(splitter.oversized(), 1u);
  splitter.feed("the end\nnext\n", count);
  EXPECT_EQ(found, 1u);
}

TEST(Messages, AreUnpacked) {
  const Unpacked json = unpack(R"({"vm":"a","message":"x\u0000\"y"})");
  EXPECT_TRUE(json.valid);
  EXPECT_EQ(json.text, std::string("x\0\"y", 4));
  const Unpacked syslog =
      unpack(R"(<13>1 2026-01-01T00:00:00Z h a - - [v a="1 \] \" 2"][w b="3"] text  here)");
  EXPECT_TRUE(syslog.valid);
  EXPECT_EQ(syslog.text, "text  here");
  EXPECT_EQ(unpack("<13>1 t h a - - - text").text, "text");
  EXPECT_EQ(unpack("<13>Jan  1 00:00:00 text").text, "<13>Jan  1 00:00:00 text");
  EXPECT_EQ(unpack(R"({"vm":"a","message_base64":"/+++AAo="})").text,
            std::string("\xff\xef\xbe\0\n", 5));
  EXPECT_EQ(unpack(R"(<13>1 t h a - - - a\x00\x5cx41\xzz)").text, std::string("a\0\\x41\\xzz", 10));
  EXPECT_FALSE(unpack("{\"message\":").valid);
  EXPECT_FALSE(unpack("<13>1 t h a - - [v a=\"1").valid);
}

TEST(Messages, DropRecordsAreFound) {
  const Unpacked json = unpack(
      R"({"vm":"a","source":"s","seq":7,"drop":{"count":12,"bytes":900,"reason":"newest","until":"x"}})");
  EXPECT_EQ(json.dropped, 12u);
  EXPECT_EQ(json.reason, "newest");
  const Unpacked syslog = unpack(
      R"(<44>1 t vm s - drop [virtproxy@32473 vm="vm" seq="7" count="3" bytes="9" reason="oldest"] 3 lines dropped)");
  EXPECT_EQ(syslog.dropped, 3u);
  EXPECT_EQ(syslog.reason, "oldest");
  const Unpacked head =
      unpack(R"(<13>1 t vm s - head [virtproxy@32473 count="1" bytes="9000000"] begin)");
  EXPECT_EQ(head.dropped, 1u);
  EXPECT_EQ(head.reason, "too-large");
  EXPECT_EQ(unpack(R"({"full_length":9000000,"message":"begin"})").dropped, 1u);
  const Unpacked forgotten = unpack(R"({"forgotten":{"count":5,"bytes":0}})");
  EXPECT_TRUE(forgotten.at_most);
  EXPECT_EQ(forgotten.dropped, 5u);
  EXPECT_EQ(unpack(R"({"unaccounted":{"count":2,"bytes":0}})").reason, "unaccounted");
  // The name alone is no record.
  EXPECT_EQ(unpack("<13>1 t h a - drop - a line").dropped, 0u);
  EXPECT_EQ(unpack(R"({"drop":1,"message":"x"})").dropped, 0u);
}

}  // namespace
}  // namespace virtproxy::bench::lines
