// What may be on its way, and what the peer's reports do to it.
#include "core/flow/inflight_limiter.h"

#include <gtest/gtest.h>

#include <deque>

#include "tests/unit/core/pair.h"

namespace virtproxy::test {
namespace {

TEST(InflightLimiter, LeavesRoomUpToItsLimitAndNoCrumbs) {
  InflightLimiter limiter(8000, 1000);
  EXPECT_EQ(limiter.available(), 8000u);
  limiter.sent(6000, seconds(1));
  EXPECT_EQ(limiter.available(), 2000u);
  limiter.sent(1500, seconds(1));
  EXPECT_EQ(limiter.available(), 0u);
  EXPECT_TRUE(limiter.acknowledge(1000, seconds(1)));
  EXPECT_EQ(limiter.available(), 1500u);
}

TEST(InflightLimiter, RefusesReportsThatShrinkOrCountTooMuch) {
  InflightLimiter limiter(8000, 1000);
  limiter.sent(100, seconds(1));
  EXPECT_FALSE(limiter.acknowledge(101, seconds(1)));
  EXPECT_TRUE(limiter.acknowledge(100, seconds(1)));
  EXPECT_FALSE(limiter.acknowledge(99, seconds(1)));
}

TEST(InflightLimiter, LimitFollowsALongFatPathAndHasAnEnd) {
  InflightLimiter limiter(500'000, 60'000);
  Instant now = seconds(1);
  uint64_t total = 0;
  for (int i = 0; i < 100; ++i) {
    const uint64_t bytes = limiter.available();
    limiter.sent(bytes, now);
    now += milliseconds(100);
    total += bytes;
    ASSERT_TRUE(limiter.acknowledge(total, now));
  }
  EXPECT_GT(limiter.limit(), 4'000'000u);
  EXPECT_LE(limiter.limit(), InflightLimiter::kMost);
}

constexpr uint64_t kFrameHeader = 16;

// A channel of a constant rate whose peer reports after every `interval` bytes, and a
// sender that has always more.
struct SlowChannel {
  SlowChannel(uint64_t local, uint64_t report_interval, uint64_t bytes_read_in_step,
              Duration latency = milliseconds(1))
      : limiter(local, report_interval),
        interval(report_interval),
        bytes_in_step(bytes_read_in_step),
        round_trip(latency) {}

  void step() {
    now += microseconds(100);
    if (const uint64_t bytes = limiter.available()) send(bytes + kFrameHeader);
    carry();
  }

  void send(uint64_t bytes) {
    limiter.sent(bytes, now);
    sent += bytes;
  }

  void carry() {
    read = std::min(sent, read + bytes_in_step);
    if (read - reported >= interval) {
      reported = read;
      reports.emplace_back(now + round_trip, read);
    }
    while (!reports.empty() && reports.front().first <= now) {
      ASSERT_TRUE(limiter.acknowledge(reports.front().second, now));
      reports.pop_front();
    }
  }

  InflightLimiter limiter;
  const uint64_t interval;
  const uint64_t bytes_in_step;
  const Duration round_trip;
  Instant now = seconds(1);
  std::deque<std::pair<Instant, uint64_t>> reports;
  uint64_t sent = 0, read = 0, reported = 0;
};

// 20 MB/s where frames are large: the queue that the sender makes is not taken for the path, and it
// never waits for a report that is not due.
TEST(InflightLimiter, BulkThatNeverPausesDoesNotRaiseItsLimit) {
  for (const auto& [local, interval] :
       {std::pair(4096u, 1024u), {16384u, 4096u}, {524288u, 65536u}}) {
    const uint64_t bytes_in_step = local / 256;
    SlowChannel channel(local, interval, bytes_in_step);
    uint64_t read_early = 0;
    for (int step = 0; step < 1'200'000; ++step) {
      channel.step();
      // The first round trip of all is one behind a full limit.
      if (step < 120'000) {
        read_early = channel.read;
      } else {
        ASSERT_LE(channel.limiter.limit(), 4 * interval) << step;
      }
    }
    EXPECT_GE(channel.read - read_early, bytes_in_step * 1'080'000 / 100 * 99);
  }
}

// What is in flight is what a message waits behind.
TEST(InflightLimiter, AFastChannelMayHaveMoreInFlightThanASlowOne) {
  for (const uint64_t megabytes : {10u, 20u, 60u, 400u}) {
    SlowChannel channel(512 * 1024, 64 * 1024, megabytes * 100);
    for (int step = 0; step < 300'000; ++step) channel.step();
    const uint64_t limit = channel.limiter.limit();
    EXPECT_GE(limit,
              megabytes < 40 ? 96u * 1024 : std::min<uint64_t>(megabytes * 5000, 512 * 1024));
    EXPECT_LE(limit, megabytes < 40 ? 300'000u : 2 * megabytes * 5000);
    EXPECT_GE(channel.read, megabytes * 100 * 300'000 / 100 * 99);
  }
}

// A long path, where bulk never pauses either: it is held back for a round trip now and then only.
TEST(InflightLimiter, ALongPathStaysFull) {
  SlowChannel channel(512 * 1024, 64 * 1024, 10'000, milliseconds(20));  // 100 MB/s
  for (int step = 0; step < 100'000; ++step) channel.step();
  const uint64_t read_before = channel.read;
  for (int step = 0; step < 1'000'000; ++step) channel.step();
  EXPECT_GE(channel.read - read_before, 10'000ull * 1'000'000 / 100 * 90);
}

// A report comes after so many bytes. Between small messages that is seconds, which say nothing
// about the path.
TEST(InflightLimiter, SmallMessagesSayNothingAboutThePath) {
  SlowChannel channel(512 * 1024, 64 * 1024, 50'000);  // 500 MB/s
  for (int step = 0; step < 20'000; ++step) channel.step();
  const auto small_messages = [](SlowChannel& to, int count) {
    for (int i = 0; i < count; ++i) {
      to.send(1000);
      to.limiter.ran_dry();
      for (int step = 0; step < 100; ++step) {
        to.now += microseconds(100);
        to.carry();
      }
    }
  };
  small_messages(channel, 3000);
  EXPECT_LE(channel.limiter.limit(), 3u << 20);
  for (int step = 0; step < 20'000; ++step) channel.step();
  EXPECT_GE(channel.limiter.limit(), 512u * 1024);
  EXPECT_LE(channel.limiter.limit(), 3u << 20);

  SlowChannel fresh(512 * 1024, 64 * 1024, 50'000);
  small_messages(fresh, 3000);
  EXPECT_LE(fresh.limiter.round_trip(), milliseconds(2));
  // Bulk is at the full limit again within a few round trips.
  for (int step = 0; step < 100; ++step) fresh.step();
  EXPECT_GE(fresh.limiter.limit(), 512u * 1024);
}

TEST(InflightLimiter, SurvivesSenselessTimes) {
  InflightLimiter limiter(500'000, 60'000);
  Instant now{};
  uint64_t total = 0;
  for (int i = 0; i < 50; ++i) {
    limiter.sent(400'000, now);
    total += 400'000;
    if (i % 2 == 0) now += std::chrono::hours(24 * 365);
    ASSERT_TRUE(limiter.acknowledge(total, now));
    ASSERT_GE(limiter.limit(), 90'000u);
    ASSERT_LE(limiter.limit(), InflightLimiter::kMost);
  }
}

TEST(InflightLimiter, NeverWaitsForAReportThatIsNotDueWhateverFrameSizesMeet) {
  for (const uint32_t a_frame : {256u, 300u, 5000u, 65536u, 1u << 20}) {
    for (const uint32_t b_frame : {256u, 65536u, 1u << 20}) {
      SessionConfig a = config_with(1);
      SessionConfig b = config_with(2);
      a.limits.max_frame = a_frame;
      b.limits.max_frame = b_frame;
      Pair pair(a, b);
      pair.connect();
      const uint64_t id = *pair.a.open();
      pair.settle();
      while (pair.a.at(id).queued < 3'000'000) {
        ASSERT_GT(pair.a.queue(id, UINT64_MAX), 0u) << "stuck: " << a_frame << " " << b_frame;
        pair.settle();
      }
      EXPECT_EQ(pair.b.at(id).received, pair.a.at(id).queued);
    }
  }
}

TEST(InflightLimiter, BoundsWhatAChannelThatSwallowsEverythingHolds) {
  Pair pair;
  pair.connect();
  std::vector<uint64_t> ids;
  for (int i = 0; i < 100; ++i) ids.push_back(*pair.a.open());
  pair.settle();
  for (const uint64_t id : ids) pair.a.queue(id, UINT64_MAX);
  while (pair.a.write(64 * 1024, pair.now)) {
  }
  EXPECT_LE(pair.a.out.size(), 600u * 1024);
  EXPECT_GT(pair.a.session.stats().queued, 500u * 1024);
  pair.settle();
  EXPECT_EQ(pair.a.session.stats().queued, 0u);
}

}  // namespace
}  // namespace virtproxy::test
