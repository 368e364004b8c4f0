// What a kind of channel takes: one file with its source (pair_source.h) and the one row below.
//
// This program has a table of its own in place of transport_table.cc. So it also shows that the
// rest of the daemon knows the kinds from the table alone: those of the daemon are unknown here.
#include "uring/transport/transport_kind.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/unit/channel_pair.h"
#include "tests/unit/transport/pair_source.h"
#include "uring/daemon/options.h"

namespace virtproxy {

std::span<const TransportKind> transport_kinds() {
  static constexpr TransportKind kKinds[] = {
      {"pair", "twin", TransportKind::Way::kConnects, Address::Kind::kUnix, "NAME:-",
       "a socket pair within\nthe process", kPairTraits, nullptr, make_source<PairSource>},
  };
  return kKinds;
}

namespace {

ParseResult parse(const std::vector<std::string>& args) {
  std::vector<const char*> argv{"virtproxy"};
  for (const std::string& arg : args) argv.push_back(arg.c_str());
  argv.push_back(nullptr);
  return parse_options(static_cast<int>(argv.size()) - 1, argv.data());
}

ChannelSpec spec_of(const std::string& arg) {
  const auto options = parse({"-c", arg});
  EXPECT_TRUE(options) << options.error().text;
  if (!options) return {};
  return options->channels.at(0);
}

TEST(TransportKindTest, ARowIsAMethodOfTheCommandLine) {
  const ChannelSpec spec = spec_of("pair:@a:-");
  ASSERT_NE(spec.transport, nullptr);
  EXPECT_EQ(transport_name(spec.transport), "pair");
  EXPECT_EQ(spec_of("twin:@a:-").transport, spec.transport);
  EXPECT_EQ(spec.address.host, "@a");

  const auto help = parse({"--help"});
  ASSERT_FALSE(help);
  EXPECT_NE(help.error().text.find("Channel methods:\n"
                                   "  pair:NAME:-                a socket pair within\n"
                                   "                             the process\n"
                                   "\nAddresses:"),
            std::string::npos)
      << help.error().text;

  const auto unknown = parse({"-c", "unix-connect:/x:-"});
  ASSERT_FALSE(unknown);
  EXPECT_NE(unknown.error().text.find("invalid channel type: unix-connect"), std::string::npos);
  EXPECT_NE(unknown.error().text.find("use one of pair, twin"), std::string::npos)
      << unknown.error().text;
  const auto malformed = parse({"-c", "twin:/x"});
  ASSERT_FALSE(malformed);
  EXPECT_NE(malformed.error().text.find("(the form is twin:NAME:-[:NAME])"), std::string::npos)
      << malformed.error().text;
}

TEST(TransportKindTest, ARowIsAMethodOfAFile) {
  const auto options = parse({"-c", "twin:@a:-:vm1"});
  ASSERT_TRUE(options);
  EXPECT_NE(print_config(*options).find("transport = \"pair:@a"), std::string::npos)
      << print_config(*options);
}

class PairTest : public ChannelPairTest {
 protected:
  void SetUp() override {
    PairSource::made = 0;
    const ChannelSpec spec = spec_of("pair:@pair:-");
    ASSERT_NE(spec.transport, nullptr);
    connect(spec, spec, {});
  }
};

TEST_F(PairTest, CarriesAStream) {
  constexpr size_t kBytes = 300'000;
  EXPECT_TRUE(here_->session().uses_trailers()) << "the traits ask for it";
  service_.script.to_send = text_of(kBytes, 1);
  opener_.scripts.push_back({.to_send = text_of(kBytes + 17, 2)});
  here_->admit(opener_, 0);
  ASSERT_TRUE(run([&] { return !service_.script.over.empty() && all_over(); }));
  EXPECT_TRUE(service_.script.received == opener_.scripts[0].to_send);
  EXPECT_TRUE(opener_.scripts[0].received == service_.script.to_send);
  EXPECT_EQ(service_.script.over, std::vector{Fault::kNone});
  EXPECT_EQ(opener_.scripts[0].over, std::vector{Fault::kNone});
  EXPECT_EQ(PairSource::made, 1U);
}

// The channel that is left alone gets a new pair with the successor of the one that went.
TEST_F(PairTest, ComesBackAfterALoss) {
  service_.script.then = Script::Then::kStayOpen;
  opener_.scripts.resize(2, {.to_send = "x", .then = Script::Then::kStayOpen});
  here_->admit(opener_, 0);
  ASSERT_TRUE(run([&] { return service_.script.received == "x"; }));
  there_->stop();
  ASSERT_TRUE(run([&] { return there_->flushed(); }));
  there_->disconnect();
  ASSERT_TRUE(run([&] { return there_->idle() && !here_->session().up(); }));
  EXPECT_EQ(opener_.scripts[0].over, std::vector{Fault::kGoingAway});

  service_.script = {};
  there_.reset();
  there_ = make(spec_of("pair:@pair:-"), 1);
  there_->start({});
  ASSERT_TRUE(run([&] { return here_->session().up() && there_->session().up(); }));
  EXPECT_GT(PairSource::made, 1U);
  here_->admit(opener_, 1);
  ASSERT_TRUE(run([&] { return service_.script.received == "x"; }));
}

}  // namespace
}  // namespace virtproxy
