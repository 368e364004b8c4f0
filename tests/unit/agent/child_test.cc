// What a child writes is taken in pieces.
#include "uring/agent/child.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

namespace virtproxy::agent {
namespace {

TEST(AgentChild, ReadsABoundedPieceInOneTurn) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  UniqueFd writer(ends[1]);
  Child child = Child::adopt(-1, UniqueFd(ends[0]));
  constexpr int kPipe = 512 * 1024;
  if (fcntl(writer.get(), F_SETPIPE_SZ, kPipe) < kPipe) GTEST_SKIP() << "no pipe of that size";
  const std::string output(kPipe, 'x');
  ASSERT_EQ(write(writer.get(), output.data(), output.size()), kPipe);

  ASSERT_TRUE(child.read_some());
  EXPECT_GT(child.text.size(), 0u);
  EXPECT_LE(child.text.size(), 64u * 1024);
  // The rest comes with the turns that follow, and then the end.
  for (int turn = 1; turn < kPipe / (64 * 1024); ++turn) ASSERT_TRUE(child.read_some());
  EXPECT_EQ(child.text, output);
  EXPECT_TRUE(child.read_some());
  writer.reset();
  EXPECT_FALSE(child.read_some());
  EXPECT_FALSE(child.truncated);
}

}  // namespace
}  // namespace virtproxy::agent
