// Statistics: what is counted, and the texts that show it.
#include <gtest/gtest.h>
#include <regex.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <set>
#include <sstream>
#include <string>

#include "uring/io/io_uring_driver.h"
#include "uring/mux/channel.h"
#include "uring/mux/counters.h"
#include "uring/mux/stats_text.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

ForwardSpec forward_of(std::string service) {
  ForwardSpec forward;
  forward.service = std::move(service);
  forward.address.kind = Address::Kind::kUnix;
  forward.address.host = "@" + forward.service;
  return forward;
}

std::string text_of(const ChannelCounters& counters, Instant now = {}) {
  PrometheusText text;
  counters.visit_stats(text, now);
  return text.text();
}

bool contains(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

// --- the texts --------------------------------------------------------------------------------

constexpr StatInfo kBytes{"memory", "Bytes", StatKind::kGauge, StatUnit::kBytes};
constexpr StatInfo kTime{"stream_blocked", "A \"time\"\\", StatKind::kCounter, StatUnit::kSeconds};

TEST(StatsLine, AddsUpWhatHasOneWordAndLeavesOutWhatHasNone) {
  StatsLine line;
  line.visit(kBytes, {1, "one"});
  line.visit(kTime, {1'000'001, "time_us"});
  line.visit(kBytes, {2, ""});
  line.visit(kBytes, {4, "one"});
  EXPECT_EQ(line.text(), "one=5 time_us=1001");
}

TEST(PrometheusText, KeepsTheSamplesOfAFamilyTogether) {
  PrometheusText text;
  for (const std::string_view channel : {"vm1", "v\"\\\n2"}) {
    text.set_common_label("channel", channel);
    const std::array<StatLabel, 1> labels{{{"pool", "send"}}};
    text.visit(kBytes, {7, "word", labels});
    text.visit(kTime, {1'002'000'003, ""});
  }
  text.set_common_label("", "");
  text.visit(kBytes, {9, ""});
  EXPECT_EQ(text.text(),
            "# HELP virtproxy_memory_bytes Bytes.\n"
            "# TYPE virtproxy_memory_bytes gauge\n"
            "virtproxy_memory_bytes{channel=\"vm1\",pool=\"send\"} 7\n"
            "virtproxy_memory_bytes{channel=\"v\\\"\\\\\\n2\",pool=\"send\"} 7\n"
            "virtproxy_memory_bytes 9\n"
            "# HELP virtproxy_stream_blocked_seconds_total A \"time\"\\\\.\n"
            "# TYPE virtproxy_stream_blocked_seconds_total counter\n"
            "virtproxy_stream_blocked_seconds_total{channel=\"vm1\"} 1.002000003\n"
            "virtproxy_stream_blocked_seconds_total{channel=\"v\\\"\\\\\\n2\"} 1.002000003\n");
}

TEST(PrometheusText, SpeaksOpenMetrics) {
  PrometheusText text(MetricsFormat::kOpenMetrics);
  text.visit(kTime, {1'002'000'003, ""});
  DurationHistogram times;
  times.add(milliseconds(400));
  constexpr StatInfo kTimes{"turn", "Times", StatKind::kHistogram, StatUnit::kSeconds};
  text.visit(kTimes, {0, {}, {}, &times});
  const std::string all = text.text();
  EXPECT_TRUE(all.starts_with("# HELP virtproxy_stream_blocked_seconds A \\\"time\\\"\\\\.\n"
                              "# TYPE virtproxy_stream_blocked_seconds counter\n"
                              "# UNIT virtproxy_stream_blocked_seconds seconds\n"
                              "virtproxy_stream_blocked_seconds_total 1.002000003\n"
                              "# HELP virtproxy_turn_seconds Times.\n"
                              "# TYPE virtproxy_turn_seconds histogram\n"
                              "# UNIT virtproxy_turn_seconds seconds\n"
                              "virtproxy_turn_seconds_bucket{le=\"0.00001\"} 0\n"))
      << all;
  EXPECT_TRUE(contains(all, "virtproxy_turn_seconds_bucket{le=\"0.3\"} 0"));
  EXPECT_TRUE(contains(all, "virtproxy_turn_seconds_bucket{le=\"1.0\"} 1"));
  EXPECT_TRUE(contains(all, "virtproxy_turn_seconds_count 1"));
  EXPECT_TRUE(all.ends_with("\n# EOF\n"));
}

// --- what is counted --------------------------------------------------------------------------

TEST(ChannelCounters, CountsByForwardAndReason) {
  ChannelCounters counters;
  const ForwardSpec ssh = forward_of("ssh");
  counters.add_forward(ssh, StreamRole::kOpener);
  counters.add_forward(forward_of("web"), StreamRole::kAcceptor);
  counters.bytes_of("ssh").sent += 10;
  counters.bytes_of("web").received += 20;
  counters.bytes_of("unknown").sent += 1000;
  const StreamKey stream{1, 1};
  counters.stream_opened({stream, "ssh", StreamRole::kOpener, {}, &ssh.address});
  counters.stream_closed({stream, "ssh", StreamRole::kOpener, Fault::kNone, {}, {}, {}});
  counters.stream_opened({stream, "ssh", StreamRole::kOpener, {}, &ssh.address});
  counters.stream_closed(
      {stream, "ssh", StreamRole::kOpener, Fault::kTransportLost, {}, milliseconds(20), {}});
  counters.client_refused({"ssh", RefusalReason::kChannelDown, -1});
  counters.connect_failed({"web", Fault::kTimedOut, "no answer"});
  counters.service_connected({"web", milliseconds(2)});
  counters.stream_refused({"nobody offers this", Fault::kUnknownService});
  counters.session_down({Fault::kBadHeader, "a frame header failed its check"});
  counters.count_closed_peer();
  counters.count_closed_peer();
  counters.glitch_seen({Glitch::kSecondAck, 3});
  const std::string text = text_of(counters);
  for (const char* line : {
           "virtproxy_streams_opened_total{forward=\"ssh\"} 2",
           "virtproxy_streams_opened_total{forward=\"web\"} 0",
           "virtproxy_stream_resets_total{reason=\"transport_lost\"} 1",
           "virtproxy_stream_bytes_total{forward=\"ssh\",direction=\"sent\"} 10",
           "virtproxy_stream_bytes_total{forward=\"web\",direction=\"received\"} 20",
           "virtproxy_clients_refused_total{forward=\"ssh\",reason=\"channel_down\"} 1",
           "virtproxy_connect_failures_total{forward=\"web\",reason=\"timed_out\"} 1",
           "virtproxy_streams_refused_total{reason=\"unknown_service\"} 1",
           "virtproxy_session_faults_total{fault=\"bad_header\"} 1",
           "virtproxy_channel_peers_refused_total 2",
           "virtproxy_glitches_total{kind=\"second_ack\"} 1",
           "virtproxy_connect_seconds_bucket{forward=\"web\",le=\"0.001\"} 0",
           "virtproxy_connect_seconds_bucket{forward=\"web\",le=\"0.003\"} 1",
           "virtproxy_connect_seconds_bucket{forward=\"web\",le=\"+Inf\"} 1",
           "virtproxy_connect_seconds_sum{forward=\"web\"} 0.002000000",
           "virtproxy_stream_duration_seconds_bucket{forward=\"ssh\",le=\"0.01\"} 1",
           "virtproxy_stream_duration_seconds_count{forward=\"ssh\"} 2",
       }) {
    EXPECT_TRUE(contains(text, line)) << line << "\n" << text;
  }
  EXPECT_EQ(text.find(" 1000\n"), std::string::npos) << "a name that is no forward makes no series";
  EXPECT_EQ(text.find("nobody"), std::string::npos);
}

// A wait for credit is one for the channel while the other end does not read it.
TEST(ChannelCounters, TellsTheChannelFromTheFarApplication) {
  ChannelCounters counters;
  const Instant begin = seconds(1000);
  const auto stalled = [&](Duration after) {
    counters.stream_stalled({{}, "ssh", StallReason::kCredit, begin + after});
  };
  stalled(seconds(0));
  counters.note_reading(Reading::kStopped, begin + seconds(2));
  stalled(seconds(3));
  const auto blocked = [&](const char* reason, const char* value) {
    return std::string("virtproxy_stream_blocked_seconds_total{reason=\"") + reason + "\"} " + value;
  };
  std::string text = text_of(counters, begin + seconds(4));
  EXPECT_TRUE(contains(text, blocked("credit", "2.000000000"))) << text;
  EXPECT_TRUE(contains(text, blocked("channel", "3.000000000"))) << text;
  EXPECT_TRUE(contains(text, "virtproxy_streams_blocked{reason=\"channel\"} 2")) << text;
  counters.note_reading(Reading::kGoesOn, begin + seconds(5));
  EXPECT_EQ(counters.unread().until(begin + seconds(9)), seconds(3));
  counters.stream_unstalled({{}, "ssh", StallReason::kCredit, begin, seconds(6)});
  counters.stream_unstalled({{}, "ssh", StallReason::kCredit, begin + seconds(3), seconds(4)});
  text = text_of(counters, begin + seconds(100));
  EXPECT_TRUE(contains(text, blocked("credit", "5.000000000"))) << text;
  EXPECT_TRUE(contains(text, blocked("channel", "5.000000000"))) << text;
  EXPECT_FALSE(counters.credit_is_out());
}

TEST(ChannelCounters, CountsStallsThatGoOnUpToNow) {
  ChannelCounters counters;
  // Years after the start of the machine and with thousands of streams, the sum of all beginnings
  // is larger than 64 bits hold.
  const Instant begin = std::chrono::hours(24 * 365 * 20);
  constexpr int kStreams = 20'000;
  for (int i = 0; i < kStreams; ++i) {
    counters.stream_stalled({{}, "ssh", StallReason::kCredit, begin});
  }
  counters.stream_unstalled({{}, "ssh", StallReason::kCredit, begin, seconds(3)});
  const std::string text = text_of(counters, begin + milliseconds(1500));
  // One of 3 s that is over, and 19,999 of 1.5 s.
  EXPECT_TRUE(
      contains(text, "virtproxy_stream_blocked_seconds_total{reason=\"credit\"} 30001.500000000"))
      << text;
  EXPECT_TRUE(contains(text, "virtproxy_streams_blocked{reason=\"credit\"} 19999")) << text;
  EXPECT_TRUE(
      contains(text, "virtproxy_stream_blocked_seconds_total{reason=\"memory\"} 0.000000000"));
}

// --- all of a channel -------------------------------------------------------------------------

class ChannelStatsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto driver = IoUringDriver::open(64, {});
    if (!driver) GTEST_SKIP() << "no ring here: " << driver.error();
    loop_ = std::make_unique<Loop>(std::move(*driver));
    resolver_ = std::make_unique<ResolverDriver>(*loop_);
  }

  std::unique_ptr<Channel> make_channel(unsigned id) {
    ChannelConfig config;
    config.spec.transport = find_transport("unix-connect");
    config.spec.id = id;
    config.spec.name = std::to_string(id);
    config.spec.address = forward_of("channel").address;
    config.memory = 16 << 20;
    config.max_streams = 64;
    config.window = 64 << 10;
    config.first_buffer_group = static_cast<uint16_t>(2 * id);
    auto channel = std::make_unique<Channel>(*loop_, *resolver_, config, services_);
    channel->counters().add_forward(forward_of("ssh"), StreamRole::kOpener);
    channel->counters().add_forward(forward_of("web"), StreamRole::kAcceptor);
    channel->counters().add_forward(forward_of("a \"b\\"), StreamRole::kAcceptor);
    return channel;
  }

  std::string metrics() {
    PrometheusText text;
    for (unsigned id = 0; id < 2; ++id) {
      const auto channel = make_channel(id);
      text.set_common_label("channel", std::to_string(id));
      channel->visit_stats(text);
    }
    return text.text();
  }

  std::unique_ptr<Loop> loop_;
  std::unique_ptr<ResolverDriver> resolver_;
  const ServiceRegistry services_{};
};

using Match = std::array<std::string, 3>;  // the whole, and the first two groups

// An extended regular expression of POSIX for whole lines. The one of the standard library does not
// compile with sanitizers and warnings as errors.
class Pattern {
 public:
  explicit Pattern(const std::string& text) {
    EXPECT_EQ(regcomp(&compiled_, ("^" + text + "$").c_str(), REG_EXTENDED), 0) << text;
  }
  ~Pattern() { regfree(&compiled_); }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  bool match(const std::string& line, Match& match) const {
    std::array<regmatch_t, 3> found{};
    if (regexec(&compiled_, line.c_str(), found.size(), found.data(), 0) != 0) return false;
    for (size_t i = 0; i < found.size(); ++i) {
      match[i].clear();
      if (found[i].rm_so < 0) continue;
      match[i] = line.substr(static_cast<size_t>(found[i].rm_so),
                             static_cast<size_t>(found[i].rm_eo - found[i].rm_so));
    }
    return true;
  }

 private:
  regex_t compiled_{};
};

// Dashboards and alerts are made of these names: one that changes is a change of the interface.
TEST_F(ChannelStatsTest, HasTheseFamilies) {
  static const Pattern kType("# TYPE ([^ ]+) ([^ ]+)");
  std::string found;
  std::istringstream lines(metrics());
  for (std::string line; std::getline(lines, line);) {
    Match match;
    if (kType.match(line, match)) found += match[1] + " " + match[2] + "\n";
  }
  EXPECT_EQ(found,
            "virtproxy_channel_up gauge\n"
            "virtproxy_channel_protocol gauge\n"
            "virtproxy_streams gauge\n"
            "virtproxy_connections gauge\n"
            "virtproxy_connections_closing gauge\n"
            "virtproxy_connections_connecting gauge\n"
            "virtproxy_send_buffers gauge\n"
            "virtproxy_memory_bytes gauge\n"
            "virtproxy_memory_limit_bytes gauge\n"
            "virtproxy_credit_borrowed_bytes gauge\n"
            "virtproxy_connections_waiting gauge\n"
            "virtproxy_sessions_total counter\n"
            "virtproxy_channel_in_flight_bytes gauge\n"
            "virtproxy_channel_round_trip_seconds gauge\n"
            "virtproxy_pipes gauge\n"
            "virtproxy_session_faults_total counter\n"
            "virtproxy_channel_peers_refused_total counter\n"
            "virtproxy_streams_opened_total counter\n"
            "virtproxy_stream_resets_total counter\n"
            "virtproxy_stream_bytes_total counter\n"
            "virtproxy_stream_blocked_seconds_total counter\n"
            "virtproxy_streams_blocked gauge\n"
            "virtproxy_clients_refused_total counter\n"
            "virtproxy_connect_failures_total counter\n"
            "virtproxy_connect_seconds histogram\n"
            "virtproxy_stream_duration_seconds histogram\n"
            "virtproxy_streams_refused_total counter\n"
            "virtproxy_glitches_total counter\n");
}

// The grammar of the text format: a family is one HELP, one TYPE and its samples, each with other
// labels than the others.
TEST_F(ChannelStatsTest, FollowsTheTextFormat) {
  static const Pattern kHelp("# HELP (virtproxy_[a-z_]+) [A-Z0-9].*\\.");
  static const Pattern kType("# TYPE (virtproxy_[a-z_]+) (counter|gauge|histogram)");
  static const Pattern kSample(
      "(virtproxy_[a-z_]+)\\{channel=\"[01]\"(,[a-z]+=\"([^\"\\]|\\\\[\"\\n])*\")*\\} "
      "[0-9]+(\\.[0-9]+)?");
  std::istringstream lines(metrics());
  std::set<std::string> families;
  std::set<std::string> samples;
  std::string family;
  for (std::string line; std::getline(lines, line);) {
    Match match;
    ASSERT_TRUE(kHelp.match(line, match)) << line;
    family = match[1];
    EXPECT_TRUE(families.insert(family).second) << family << " comes twice";
    ASSERT_TRUE(std::getline(lines, line) && kType.match(line, match)) << line;
    EXPECT_EQ(match[1], family);
    EXPECT_EQ(family.ends_with("_total"), match[2] == "counter") << family;
    do {
      ASSERT_TRUE(std::getline(lines, line) && kSample.match(line, match)) << line;
      const std::string suffix = match[1].substr(std::min(family.size(), match[1].size()));
      EXPECT_EQ(match[1], family + suffix);
      if (!suffix.empty()) {
        EXPECT_TRUE(suffix == "_bucket" || suffix == "_sum" || suffix == "_count") << line;
      }
      EXPECT_TRUE(samples.insert(line.substr(0, line.rfind(' '))).second) << line;
    } while (lines.peek() == 'v');
  }
  EXPECT_GT(families.size(), 20u);
}

// The judge of Prometheus itself, where it is installed (package prometheus).
TEST_F(ChannelStatsTest, SatisfiesPromtool) {
  if (std::system("command -v promtool >/dev/null") != 0) {
    GTEST_SKIP() << "no promtool here: FollowsTheTextFormat stands alone";
  }
  const std::string text = metrics();
  std::FILE* const promtool = popen("promtool check metrics 2>&1", "w");
  ASSERT_NE(promtool, nullptr);
  EXPECT_EQ(std::fwrite(text.data(), 1, text.size(), promtool), text.size());
  EXPECT_EQ(pclose(promtool), 0);
}

// A line of the log is cut off beyond its limit.
TEST_F(ChannelStatsTest, FitsIntoALine) {
  StatsLine line;
  make_channel(0)->visit_stats(line);
  EXPECT_EQ(line.text().substr(0, 5), "up=0 ");
  EXPECT_LT(line.text().size(), kMaxLogLine / 2);
}

}  // namespace
}  // namespace virtproxy
