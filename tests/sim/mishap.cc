#include "tests/sim/mishap.h"

namespace virtproxy::sim {

std::string_view mishap_name(Mishap mishap) {
  static constexpr std::array<std::string_view, kMishaps> kNames{
      "short-read",
      "short-write",
      "late-completion",
      "overtaking",
      "spurious-wake",
      "interrupted",
      "ring-refuses",
      "poll-ends",
      "slow-processor",
      "receive-error",
      "send-error",
      "no-memory",
      "channel-error",
      "no-buffers",
      "pipe-full",
      "pipe-fails",
      "pipe-small",
      "closed-before",
      "hasty-service",
      "accept-fails",
      "socket-fails",
      "service-absent",
      "service-silent",
      "backlog-full",
      "address-in-use",
      "late-release",
      "channel-cut",
      "channel-torn",
      "channel-stalls",
      "device-absent",
      "host-leaves",
      "wake-lost",
      "stale-bytes",
      "byte-flipped",
      "byte-lost",
      "byte-inserted",
      "old-protocol",
      "protocol-one",
      "upgraded",
      "downgraded",
      "stream-stalls",
      "daemon-killed",
      "daemon-stopped",
      "stands-still",
      "application-resets",
      "application-vanishes",
      "application-stalls",
      "application-crawls",
      "answers-early",
      "half-close",
      "hostile-peer",
      "hostile-resets",
      "hostile-closes",
      "greeting-right",
      "greeting-of-earlier-life",
      "epoch-predicted",
      "open-behind-greeting",
      "data-behind-init",
      "mind-changed",
      "many-in-one",
      "grace-ends",
      "disk-fails",
      "power-lost",
      "silent-stranger",
  };
  return kNames[static_cast<size_t>(mishap)];
}

bool is_of_ring(Mishap mishap) {
  switch (mishap) {
    case Mishap::kOvertaking:
    case Mishap::kRingRefuses:
    case Mishap::kPollEnds:
    case Mishap::kNoBuffers:
    case Mishap::kClosedBefore:
      return true;
    default:
      return false;
  }
}

bool is_of_channel(Mishap mishap) {
  switch (mishap) {
    case Mishap::kShortRead:
    case Mishap::kShortWrite:
    case Mishap::kChannelError:
    case Mishap::kChannelCut:
    case Mishap::kChannelTorn:
    case Mishap::kChannelStalls:
    case Mishap::kDeviceAbsent:
    case Mishap::kHostLeaves:
    case Mishap::kWakeLost:
    case Mishap::kStaleBytes:
    case Mishap::kByteFlipped:
    case Mishap::kByteLost:
    case Mishap::kByteInserted:
    case Mishap::kDaemonKilled:
    case Mishap::kDaemonStopped:
    case Mishap::kStandsStill:
    case Mishap::kApplicationResets:
    case Mishap::kApplicationVanishes:
    case Mishap::kApplicationStalls:
    case Mishap::kApplicationCrawls:
    case Mishap::kAnswersEarly:
    case Mishap::kHalfClose:
    case Mishap::kHostilePeer:
    case Mishap::kHostileResets:
    case Mishap::kHostileCloses:
    case Mishap::kGreetingRight:
    case Mishap::kGreetingOfEarlierLife:
    case Mishap::kOpenBehindGreeting:
    case Mishap::kDataBehindInit:
    case Mishap::kMindChanged:
    case Mishap::kManyInOne:
      return true;
    default:
      return false;
  }
}

}  // namespace virtproxy::sim
