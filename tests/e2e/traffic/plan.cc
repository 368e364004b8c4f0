#include "plan.h"

#include <algorithm>

namespace virtproxy::traffic {

bool Announcement::Valid() const {
  return magic == kMagic && order <= Order::kServiceFirst && style <= Style::kFlat &&
         killer <= Killer::kService && family <= Family::kUnix;
}

uint64_t Derive(const Announcement& plan, Side side, std::string_view use) {
  uint64_t seed = Mix(plan.seed) ^ (uint64_t{plan.stream} << 1) ^ static_cast<uint64_t>(side);
  for (const char c : use) seed = Mix(seed ^ static_cast<unsigned char>(c));
  return seed;
}

KillPoint DrawKillPoint(const Announcement& plan, Side killer) {
  Random random(Derive(plan, killer, "kill"));
  KillPoint point;
  // Whoever speaks first and must be heard to the end before an answer comes cannot wait for one.
  point.by_received = !plan.First(killer) && random.OneIn(2);
  const uint64_t bytes = plan.SentBy(point.by_received ? Other(killer) : killer);
  point.offset = random.Between(1, std::max<uint64_t>(bytes, 2) - 1);
  return point;
}

uint64_t Rhythm::NextSize() {
  if (style_ == Style::kTiny) return 1;
  if (style_ == Style::kFlat) return 64 * 1024;
  switch (random_.Between(0, 7)) {
    case 0:
      return random_.Between(1, 16);
    case 1:
    case 2:
      return random_.Between(1, 1500);
    case 3:
    case 4:
    case 5:
      return random_.Between(1024, 16 * 1024);
    case 6:
      return random_.Between(16 * 1024, 64 * 1024);
    default:
      return random_.Between(64 * 1024, kLargestWrite);
  }
}

uint64_t Rhythm::NextPause() {
  if (style_ == Style::kFlat || pause_left_ == 0) return 0;
  if (!random_.OneIn(style_ == Style::kTiny ? 512 : 48)) return 0;
  const uint64_t pause = std::min(random_.Between(1, 10), pause_left_);
  pause_left_ -= pause;
  return pause;
}

}  // namespace virtproxy::traffic
