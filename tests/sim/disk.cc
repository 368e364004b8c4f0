#include "tests/sim/disk.h"

#include <algorithm>

namespace virtproxy::sim {

bool Disk::fails() {
  if (!World::current().happens(Mishap::kDiskFails)) return false;
  failed_ = true;
  return true;
}

int64_t Disk::read(std::span<std::byte> to, uint64_t offset) const {
  if (offset >= seen_.size()) return 0;
  const size_t size = std::min<size_t>(to.size(), seen_.size() - offset);
  std::copy_n(seen_.begin() + static_cast<ptrdiff_t>(offset), size, to.begin());
  return static_cast<int64_t>(size);
}

int64_t Disk::write(std::span<const std::byte> from, uint64_t offset) {
  World& world = World::current();
  if (offset + from.size() > seen_.size()) world.fail("disk", "a write behind the end of a file");
  if (fails()) return world.random().chance(0.5) ? -ENOSPC : -EIO;
  size_t size = from.size();
  if (size > 1 && world.happens(Mishap::kShortWrite)) size = world.random().between(1, size - 1);
  if (size > 64 && world.canary_strikes(Canary::kLoseWrite, 0.05)) {
    return static_cast<int64_t>(size);
  }
  std::copy_n(from.begin(), size, seen_.begin() + static_cast<ptrdiff_t>(offset));
  unsynced_.push_back({offset, size});
  return static_cast<int64_t>(size);
}

int64_t Disk::sync() {
  if (fails()) return -EIO;
  const bool loses = World::current().canary() == Canary::kLoseSync;
  for (const Range& range : unsynced_) {
    const auto from = seen_.begin() + static_cast<ptrdiff_t>(range.offset);
    std::copy_n(from, range.size, promised_.begin() + static_cast<ptrdiff_t>(range.offset));
    if (loses) continue;
    std::copy_n(from, range.size, durable_.begin() + static_cast<ptrdiff_t>(range.offset));
  }
  if (!loses) unsynced_.clear();
  return 0;
}

void Disk::lose_power(Random& random) {
  const double kept = random.chance(0.3) ? 0 : random.chance(0.3) ? 1 : 0.8;
  for (const Range& range : unsynced_) {
    for (size_t at = range.offset; at < range.offset + range.size;) {
      const size_t size = std::min(kSector - at % kSector, range.offset + range.size - at);
      if (random.chance(kept)) {
        std::copy_n(seen_.begin() + static_cast<ptrdiff_t>(at), size,
                    durable_.begin() + static_cast<ptrdiff_t>(at));
      }
      at += size;
    }
  }
  unsynced_.clear();
  seen_ = promised_ = durable_;
}

}  // namespace virtproxy::sim
