// JSON within limits, and the lines it comes in.
#include <gtest/gtest.h>

#include <random>

#include "core/agent/json.h"
#include "core/agent/line_reader.h"
#include "core/agent/message.h"

namespace virtproxy::agent {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string nested(size_t depth, char open, char close) {
  return std::string(depth, open) + std::string(depth, close);
}

TEST(AgentJson, ReadsWhatItShould) {
  const ParsedJson parsed =
      parse_json(R"( {"a":[1,-2,18446744073709551615,2.5,true,null,"\u00e4"]} )");
  ASSERT_EQ(parsed.fault, JsonFault::kNone);
  EXPECT_EQ(to_text(parsed.value), "{\"a\":[1,-2,18446744073709551615,2.5,true,null,\"ä\"]}");
  EXPECT_EQ(parse_json("7").value, Json(7));
}

TEST(AgentJson, RefusesWhatIsBeyondALimit) {
  const auto fault = [](const std::string& text) { return parse_json(text).fault; };
  EXPECT_EQ(fault(nested(16, '[', ']')), JsonFault::kNone);
  EXPECT_EQ(fault(nested(17, '[', ']')), JsonFault::kTooDeep);
  EXPECT_EQ(fault(std::string(100000, '[')), JsonFault::kTooDeep);
  std::string many = "[1";
  for (int i = 0; i < 4094; ++i) many += ",1";
  EXPECT_EQ(fault(many + "]"), JsonFault::kNone);
  EXPECT_EQ(fault(many + ",1]"), JsonFault::kTooManyValues);
  EXPECT_EQ(fault(R"({"a":1,"a":2})"), JsonFault::kDuplicateKey);
  EXPECT_EQ(fault(R"({"a":{"b":1,"\u0062":2}})"), JsonFault::kDuplicateKey);
  EXPECT_EQ(fault(R"({"a":{"b":1},"b":1})"), JsonFault::kNone);
  EXPECT_EQ(fault("18446744073709551616"), JsonFault::kNumberTooLarge);
  EXPECT_EQ(fault("-9223372036854775809"), JsonFault::kNumberTooLarge);
  EXPECT_EQ(fault("1e999"), JsonFault::kNumberTooLarge);
  for (const std::string text : {"", "{", "[1,]", "{\"a\"}", "nul", "1 2", "{} {}", "\"\xff\"",
                                 "\"\xc0\x80\"", "'a'", "// c\n1"}) {
    EXPECT_EQ(fault(text), JsonFault::kSyntax) << text;
  }
  EXPECT_EQ(fault(std::string("1\0", 2)), JsonFault::kSyntax);
  EXPECT_EQ(fault(std::string("{}\0x", 4)), JsonFault::kSyntax);
}

TEST(AgentJson, FindsAMemberAsItWasWritten) {
  const auto raw = [](std::string_view text) {
    return std::string(raw_member(text, "id").value_or("(none)"));
  };
  EXPECT_EQ(raw(R"({"id":7})"), "7");
  EXPECT_EQ(raw(R"({ "a" : "id" , "id" : 1.0e2 })"), "1.0e2");
  EXPECT_EQ(raw(R"({"a":{"id":1},"b":["}",{"id":2}],"i\u0064": {"x":["\"]}",3 ]} })"),
            R"({"x":["\"]}",3 ]})");
  EXPECT_EQ(raw(R"({"id":"a\"b\\"})"), R"("a\"b\\")");
  EXPECT_EQ(raw(R"({"a":"id"})"), "(none)");
  EXPECT_EQ(raw("{}"), "(none)");
  EXPECT_EQ(raw(R"({"a":12,"id":null})"), "null");
}

TEST(AgentJson, CutsBetweenCharacters) {
  EXPECT_EQ(cut_utf8("aä", 3), "aä");
  EXPECT_EQ(cut_utf8("aä", 2), "a");
  EXPECT_EQ(cut_utf8("ää", 1), "");
}

TEST(AgentMessage, IsToldByItsKey) {
  using Kind = Message::Kind;
  const auto kind = [](std::string_view line) { return parse_message(line).kind; };
  EXPECT_EQ(kind(R"({"execute":"a"})"), Kind::kRequest);
  EXPECT_EQ(kind(R"({"execute":"a","arguments":{},"id":[1]})"), Kind::kRequest);
  EXPECT_EQ(kind(R"({"return":null})"), Kind::kReturn);
  EXPECT_EQ(kind(R"({"error":{"class":"GenericError","desc":"x"}})"), Kind::kError);
  EXPECT_EQ(kind(R"({"event":"e","data":{},"timestamp":{"seconds":1,"microseconds":2}})"),
            Kind::kEvent);
  for (const std::string_view line :
       {R"({})", R"([])", R"({"execute":"a","return":1})", R"({"execute":1})", R"({"execute":""})",
        R"({"execute":"a","arguments":[]})", R"({"execute":"a","other":1})", R"({"error":1})"}) {
    EXPECT_EQ(kind(line), Kind::kBad) << line;
  }
  EXPECT_EQ(kind(R"({"execute":")" + std::string(64, 'a') + R"("})"), Kind::kRequest);
  EXPECT_EQ(kind(R"({"execute":")" + std::string(65, 'a') + R"("})"), Kind::kBad);
  EXPECT_EQ(kind(R"({"execute":"a","id":")" + std::string(126, 'a') + R"("})"), Kind::kRequest);
  EXPECT_EQ(kind(R"({"execute":"a","id":")" + std::string(127, 'a') + R"("})"), Kind::kBad);
}

TEST(AgentMessage, ErrorsTravelWithTheirCode) {
  Error error = error_of(ErrorCode::kIo, "no \xff");
  error.io = "ENOENT";
  const Message back = parse_message(
      std::string_view(encode_error(error, "7")).substr(0, encode_error(error, "7").size() - 1));
  ASSERT_EQ(back.kind, Message::Kind::kError);
  EXPECT_EQ(error_code_text(back.error), "io:ENOENT");
  EXPECT_EQ(back.error.text, "no \uFFFD");
  EXPECT_FALSE(back.error.command_not_found);
  EXPECT_EQ(back.id, "7");
}

std::vector<std::string> items_of(std::string_view text, const std::vector<size_t>& cuts,
                                  size_t longest) {
  LineReader reader(longest);
  std::vector<std::string> items;
  size_t begin = 0;
  for (size_t i = 0; i <= cuts.size(); ++i) {
    const size_t end = i < cuts.size() ? cuts[i] : text.size();
    auto piece = bytes_of(text.substr(begin, end - begin));
    begin = end;
    while (const auto item = reader.next(piece)) {
      items.push_back(item->kind == LineReader::Kind::kLine    ? "line:" + std::string(item->line)
                      : item->kind == LineReader::Kind::kReset ? "reset"
                                                               : "long");
    }
    EXPECT_LE(reader.held(), longest);
  }
  return items;
}

TEST(AgentLineReader, MeansTheSameInAllCuts) {
  const std::string text =
      "abc\n\xff"
      "de\xff\n0123456789\nlonger than ten\xffx\nlonger than ten too\ny\nrest";
  const std::vector<std::string> want{"line:abc", "reset", "reset",  "line:", "line:0123456789",
                                      "long",     "reset", "line:x", "long",  "line:y"};
  EXPECT_EQ(items_of(text, {}, 10), want);
  std::vector<size_t> all(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    all[i] = i;
    EXPECT_EQ(items_of(text, {i}, 10), want) << i;
  }
  EXPECT_EQ(items_of(text, all, 10), want);
}

}  // namespace
}  // namespace virtproxy::agent
