#include "core/peer_backoff.h"

#include <gtest/gtest.h>

namespace virtproxy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Heard = ReconnectBackoff::Heard;

TEST(FaultBackoff, DoublesUpToTheLongest) {
  FaultBackoff backoff;
  Duration expected = milliseconds(50);
  for (int fault = 0; fault < 12; ++fault) {
    EXPECT_EQ(backoff.fault(seconds(1), 0), expected);
    EXPECT_EQ(backoff.last(), expected);
    expected = std::min<Duration>(2 * expected, milliseconds(6400));
  }
}

TEST(FaultBackoff, SomeMayBeFree) {
  FaultBackoff backoff;
  for (int fault = 0; fault < 4; ++fault) EXPECT_EQ(backoff.fault(seconds(1), 4), Duration::zero());
  EXPECT_EQ(backoff.fault(seconds(1), 4), milliseconds(50));
  EXPECT_EQ(backoff.fault(seconds(1), 0), milliseconds(50) * 32) << "they count all the same";
}

TEST(FaultBackoff, ALongSessionIsFollowedByACleanRecord) {
  FaultBackoff backoff;
  backoff.session_began(seconds(100));
  EXPECT_EQ(backoff.fault(seconds(101), 0), milliseconds(50));
  EXPECT_EQ(backoff.fault(seconds(110), 0), milliseconds(100));
  EXPECT_EQ(backoff.fault(seconds(110) + Duration(1), 0), milliseconds(50));
}

TEST(FaultBackoff, SilenceOnTheNextLinkDoesNotClearTheRecord) {
  FaultBackoff backoff;
  backoff.link_began();
  backoff.fault(seconds(1), 0);
  backoff.fault(seconds(1), 0);
  backoff.link_began();
  backoff.fault(seconds(1), 0);
  backoff.forgive();
  EXPECT_EQ(backoff.last(), Duration::zero());
  EXPECT_EQ(backoff.fault(seconds(1), 0), milliseconds(200)) << "two of the link before";
}

TEST(ReconnectBackoff, DelaysAPeerThatComesAndGoesInATightLoop) {
  ReconnectBackoff backoff;
  Instant now = seconds(5);
  for (int connection = 0; connection < 20; ++connection) {
    backoff.connected(now);
    now += milliseconds(1);
    EXPECT_EQ(backoff.lost(now, Heard::kSomething),
              connection < 8 ? Duration::zero() : Duration(milliseconds(50)));
  }
  backoff.connected(now);
  EXPECT_EQ(backoff.lost(now + seconds(2), Heard::kSomething), Duration::zero())
      << "one that stays ends the loop";
}

TEST(ReconnectBackoff, DoublesWhileNothingIsHeard) {
  ReconnectBackoff backoff;
  const auto lose = [&](Heard heard) {
    backoff.connected(seconds(5));
    return backoff.lost(seconds(5), heard);
  };
  for (int connection = 0; connection < 8; ++connection) {
    EXPECT_EQ(lose(Heard::kNothing), Duration::zero()) << "a restart takes a moment";
  }
  Duration expected = milliseconds(50);
  for (int connection = 0; connection < 1000; ++connection) {
    EXPECT_EQ(lose(Heard::kNothing), expected);
    expected = std::min<Duration>(2 * expected, ReconnectBackoff::kLongest);
  }
  EXPECT_EQ(lose(Heard::kSomething), Duration(milliseconds(50)));
  for (int connection = 0; connection < 9; ++connection) {
    EXPECT_EQ(lose(Heard::kNothing), Duration(milliseconds(50))) << "it begins anew";
  }
  EXPECT_EQ(lose(Heard::kNothing), Duration(milliseconds(100)));
}

}  // namespace
}  // namespace virtproxy
