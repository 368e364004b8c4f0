#include "uring/daemon/difference.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace virtproxy {
namespace {

Options options_of(const std::string& text, const std::vector<std::string>& args = {}) {
  std::vector<const char*> argv{"virtproxy", "--config", "file"};
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  auto parsed = parse_options(static_cast<int>(argv.size()), argv.data(), [&](const std::string&) {
    return std::vector<ConfigText>{{"file", text}};
  });
  if (parsed) return *std::move(parsed);
  ADD_FAILURE() << parsed.error().text;
  return {};
}

constexpr char kBase[] =
    "[channel.a]\ntransport = \"unix-connect:/a\"\n"
    "[channel.a.listen.web]\nat = \"127.0.0.1:80\"\n"
    "[channel.b]\ntransport = \"tcp-connect:127.0.0.1:9\"\n"
    "[channel.b.offer.db]\nto = \"127.0.0.1:81\"\n";

std::string summary(const std::string& now, const std::string& wanted) {
  Options changed = options_of(wanted);
  const Difference found = difference(options_of(now), changed);
  EXPECT_EQ(found.errors, std::vector<std::string>{});
  return found.summary(changed);
}

std::string with(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(DifferenceTest, SaysWhatIsDifferent) {
  const std::string base = kBase;
  EXPECT_EQ(summary(base, base), "no channel or forward is different");
  // The order and the number of a channel mean nothing.
  const size_t second = base.find("[channel.b]");
  EXPECT_EQ(summary(base, base.substr(second) + base.substr(0, second)),
            "no channel or forward is different");
  EXPECT_EQ(summary(base, base.substr(second)),
            "1 channel removed (a), 1 forward removed (-o web of a on 127.0.0.1:80)");
  EXPECT_EQ(summary(base.substr(second), base),
            "1 channel added (a), 1 forward added (-o web of a on 127.0.0.1:80)");
  EXPECT_EQ(summary(base, with(base, "\"unix-connect:/a\"", "\"unix-connect:/c\"")),
            "1 channel replaced (a)");
  EXPECT_EQ(
      summary(base, with(base, "\"unix-connect:/a\"", "\"unix-connect:/a\"\nwindow = \"8K\"")),
      "1 channel replaced (a)");
  EXPECT_EQ(summary(base, "[process]\nlog-level = \"debug\"\ndrain-timeout = 7\n" + base),
            "drain-timeout changed, log-level changed");
  // Of its forwards alone.
  EXPECT_EQ(
      summary(base, with(base, "\"unix-connect:/a\"", "\"unix-connect:/a\"\nallow-remote = true")),
      "1 forward changed (-o web of a on 127.0.0.1:80)");
  EXPECT_EQ(summary(base, with(base, ":80\"", ":80\"\npriority = \"bulk\"")),
            "1 forward changed (-o web of a on 127.0.0.1:80)");
  EXPECT_EQ(summary(base, with(base, ":81", ":82")),
            "1 forward changed (-i db of b to 127.0.0.1:82)");
  EXPECT_EQ(summary(base, with(base, ":80", ":82")),
            "1 forward added (-o web of a on 127.0.0.1:82), 1 forward removed (-o web of a on "
            "127.0.0.1:80)");
  std::string more = base;
  for (int i = 0; i < 10; ++i) {
    more += fmt::format("[channel.n{0}]\ntransport = \"unix-connect:/n{0}\"\n", i);
  }
  EXPECT_EQ(summary(base, more), "10 channels added (n0, n1, n2, n3, n4, n5, n6, n7 and 2 more)");
}

TEST(DifferenceTest, ProcessKeysThatCannotChangeAreNamed) {
  const Options now = options_of(kBase);
  Options wanted = options_of(std::string("[process]\nthreads = 2\ndriver = \"epoll\"\n"
                                          "drain-timeout = 9\nlog-level = \"debug\"\n") +
                              kBase);
  const Difference found = difference(now, wanted);
  ASSERT_EQ(found.errors.size(), 2u);
  EXPECT_EQ(found.errors[0],
            "threads cannot change while it runs: it is 1 and would be 2; restart for that");
  EXPECT_EQ(found.errors[1].find("driver cannot change"), 0u);
}

TEST(DifferenceTest, ChannelsThatStayKeepTheirMemory) {
  const std::string base = kBase;
  const Options now = options_of(base);
  const uint64_t part = now.channels[0].memory;
  const std::string third = "[channel.c]\ntransport = \"unix-connect:/c\"\n";
  Options wanted = options_of(base + third);
  EXPECT_LT(wanted.channels[0].memory, part);
  Difference found = difference(now, wanted);
  EXPECT_EQ(found.summary(wanted), "1 channel added (c)");
  EXPECT_EQ(wanted.channels[0].memory, part);
  EXPECT_GT(wanted.channels[2].memory, 0u);
  EXPECT_EQ(wanted.memory, 2 * part + wanted.channels[2].memory);

  // A limit that was given holds.
  const std::string limit = "[process]\nmemory = \"64M\"\n";
  wanted = options_of(limit + base + third);
  found = difference(options_of(limit + base), wanted);
  ASSERT_EQ(found.errors.size(), 1u);
  EXPECT_EQ(found.errors[0].find("memory 64M is too little: 64M of it are in use"), 0u);
  wanted = options_of("[process]\nmemory = \"80M\"\n" + base + third);
  found = difference(options_of(limit + base), wanted);
  EXPECT_EQ(found.errors, std::vector<std::string>{});
  EXPECT_EQ(wanted.channels[2].memory, uint64_t{16} << 20);
}

// What ships lines was made for one channel at the start.
TEST(DifferenceTest, TheChannelThatShipsLinesStays) {
  const std::string ship = "[ship]\nsource = [\"stdin\"]\n";
  const std::string base = kBase + ship;
  const size_t second = base.find("[channel.b]");
  const std::string reordered =
      base.substr(second, base.size() - second - ship.size()) + base.substr(0, second) + ship;
  const std::string named = "[ship]\nsource = [\"stdin\"]\nchannel = \"a\"\n";
  const auto errors = [](const std::string& now, const std::string& wanted) {
    Options changed = options_of(wanted);
    return difference(options_of(now), changed).errors;
  };
  EXPECT_EQ(errors(base, base), std::vector<std::string>{});
  EXPECT_EQ(
      errors(base, reordered),
      std::vector<std::string>{"lines are shipped over channel a and would be over b; name it "
                               "in ship-channel, or restart for that"});
  EXPECT_EQ(errors(with(base, ship, named), with(reordered, ship, named)),
            std::vector<std::string>{});
  const std::string away =
      "channel a cannot be removed while logs are shipped over it or collected from it; restart "
      "for "
      "that";
  EXPECT_EQ(errors(base, base.substr(second)), std::vector<std::string>{away});
  EXPECT_EQ(errors(base, with(base, "\"unix-connect:/a\"", "\"unix-connect:/c\"")).size(), 1U);
  EXPECT_EQ(errors(base, with(base, "\"tcp-connect:127.0.0.1:9\"", "\"tcp-connect:127.0.0.1:8\"")),
            std::vector<std::string>{});
}

}  // namespace
}  // namespace virtproxy
