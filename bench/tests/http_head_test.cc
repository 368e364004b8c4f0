#include "http_head.h"

#include <gtest/gtest.h>

#include <string>

namespace virtproxy::bench {
namespace {

const std::byte* bytes(std::string_view text) {
  return reinterpret_cast<const std::byte*>(text.data());
}

TEST(HttpHead, EndsAtTheEmptyLineHoweverItIsCut) {
  const std::string head = "HTTP/1.1 200 Fine\r\nVia: x\r\r\n\r\n";
  for (size_t cut = 0; cut <= head.size(); ++cut) {
    HttpHead parser;
    const std::string text = head + "payload";
    EXPECT_EQ(parser.take(bytes(text), cut), cut);
    const size_t rest = parser.take(bytes(text) + cut, text.size() - cut);
    EXPECT_EQ(cut + rest, head.size());
    EXPECT_TRUE(parser.complete());
    EXPECT_TRUE(parser.agrees());
  }
}

TEST(HttpHead, KnowsARefusal) {
  HttpHead parser;
  const std::string_view text = "HTTP/1.1 403 No\r\n\r\n";
  parser.take(bytes(text), text.size());
  EXPECT_TRUE(parser.complete());
  EXPECT_FALSE(parser.agrees());
}

TEST(HttpHead, OurOwnHeadsAreWhole) {
  for (const std::string_view text : {kConnectRequest, kConnectAnswer}) {
    HttpHead parser;
    EXPECT_EQ(parser.take(bytes(text), text.size()), text.size());
    EXPECT_TRUE(parser.complete());
  }
}

}  // namespace
}  // namespace virtproxy::bench
