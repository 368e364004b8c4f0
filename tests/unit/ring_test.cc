// What the ring promises its users, on the real kernel.
#include "uring/ring.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>

namespace virtproxy {
namespace {

struct Waiting final : Completion {
  void complete(Op&, int value, uint32_t) override { result = value; }

  Op op{this};
  std::optional<int> result;
};

TEST(Ring, CancelledBeforeItWasSubmittedTouchesNoDescriptor) {
  auto ring = Ring::open(64, {});
  if (!ring) GTEST_SKIP() << ring.error();
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  ASSERT_EQ(write(pair[1], "bytes", 5), 5);

  // What the application sees when its descriptor is closed, and the number is given to another
  // one, before the request has left.
  const int closed = dup(pair[0]);
  std::byte stolen[8];
  Waiting waiting;
  (*ring)->recv(waiting.op, {closed, -1}, stolen, sizeof stolen, false);
  (*ring)->cancel(waiting.op);
  while (!waiting.result) {
    ASSERT_EQ((*ring)->wait(std::chrono::seconds(5)), 0);
    (*ring)->dispatch();
  }
  EXPECT_LT(*waiting.result, 0);
  EXPECT_FALSE(waiting.op.pending);
  char kept[8];
  EXPECT_EQ(recv(pair[0], kept, sizeof kept, MSG_DONTWAIT), 5);
  for (const int fd : {closed, pair[0], pair[1]}) close(fd);
}

TEST(Ring, CancelledAfterItWasSubmittedCompletes) {
  auto ring = Ring::open(64, {});
  if (!ring) GTEST_SKIP() << ring.error();
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  std::byte bytes[8];
  Waiting waiting;
  (*ring)->recv(waiting.op, {pair[0], -1}, bytes, sizeof bytes, true);
  ASSERT_EQ((*ring)->wait(std::chrono::milliseconds(1)), 0);
  (*ring)->dispatch();
  ASSERT_TRUE(waiting.op.pending);
  (*ring)->cancel(waiting.op);
  while (!waiting.result) {
    ASSERT_EQ((*ring)->wait(std::chrono::seconds(5)), 0);
    (*ring)->dispatch();
  }
  EXPECT_EQ(*waiting.result, -ECANCELED);
  close(pair[0]);
  close(pair[1]);
}

}  // namespace
}  // namespace virtproxy
