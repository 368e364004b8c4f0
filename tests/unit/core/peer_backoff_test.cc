#include "core/peer_backoff.h"

#include <gtest/gtest.h>

namespace virtproxy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

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
    EXPECT_EQ(backoff.lost(now), connection < 8 ? Duration::zero() : Duration(milliseconds(50)));
  }
  backoff.connected(now);
  EXPECT_EQ(backoff.lost(now + seconds(2)), Duration::zero()) << "one that stays ends the loop";
}

}  // namespace
}  // namespace virtproxy
