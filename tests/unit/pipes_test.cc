// Pipes for bulk: how many there are, and how large, for the memory that they may keep allocated.
#include "uring/io/pipes.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <vector>

namespace virtproxy {
namespace {

// All descriptors of pipes, and the slots that the kernel says they have.
struct Kernel {
  std::set<int> pipes;
  uint64_t slots = 0;  // each pipe has two descriptors
};
Kernel look(const std::set<int>& known = {}) {
  Kernel kernel;
  for (int fd = 0; fd < 1024; ++fd) {
    const int size = fcntl(fd, F_GETPIPE_SZ);
    if (size < 0) continue;
    kernel.pipes.insert(fd);
    if (!known.contains(fd)) kernel.slots += static_cast<uint64_t>(size) / 4096;
  }
  kernel.slots /= 2;
  return kernel;
}

class PipesTest : public testing::TestWithParam<uint64_t> {};

TEST_P(PipesTest, KeepNoMoreAllocatedThanTheirMemory) {
  const uint64_t memory = GetParam();
  const Kernel before = look();
  PipePool pool(memory);
  std::vector<Pipe*> pipes;
  while (Pipe* pipe = pool.take()) {
    pipes.push_back(pipe);
    ASSERT_LE(pipes.size(), PipePool::kMost);
  }
  const Kernel with = look(before.pipes);
  EXPECT_EQ(with.pipes.size() - before.pipes.size(), 2 * pipes.size());
  EXPECT_EQ(pool.in_use(), pipes.size());
  EXPECT_LE(with.slots * kPinnedBySlot, pool.pinned());
  EXPECT_LE(pool.pinned(), memory);
  // It is used: at least half of it, up to what the largest number of the largest pipes takes.
  if (memory >= 16 * kPinnedBySlot) {
    EXPECT_GE(2 * pool.pinned(), std::min(memory, PipePool::kMost * 128 * kPinnedBySlot));
  }
  for (Pipe* pipe : pipes) pool.release(pipe);
  EXPECT_EQ(pool.in_use(), 0u);
  pool.trim();
  EXPECT_EQ(pool.pinned(), 0u);
  EXPECT_EQ(look().pipes, before.pipes);
}

constexpr uint64_t kMiB = 1 << 20;
INSTANTIATE_TEST_SUITE_P(Memory, PipesTest,
                         testing::Values(0, kMiB / 4, kMiB, 8 * kMiB, 32 * kMiB, 100 * kMiB,
                                         1024 * kMiB),
                         [](const auto& param_info) {
                           return std::to_string(param_info.param / 1024) + "KiB";
                         });

}  // namespace
}  // namespace virtproxy
