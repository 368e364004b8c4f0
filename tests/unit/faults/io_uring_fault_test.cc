// What the ring does when the kernel refuses. The calls that enter it are redirected here by the
// linker; without an order to refuse they go through.
#include <gtest/gtest.h>
#include <liburing.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <system_error>
#include <vector>

#include "uring/io/enter.h"
#include "uring/io/io_uring_driver.h"

namespace {

constexpr unsigned kForEver = 1'000'000;
// A ring that asks so often asks for ever.
constexpr unsigned kRunaway = 100'000;

struct Orders {
  int error = 0;
  unsigned refusals = 0;  // to come
  unsigned refused = 0;
  unsigned waits_of_liburing = 0;
  std::vector<unsigned> entered_with;  // flags
} orders;

bool refuses() {
  if (orders.refusals == 0) return false;
  --orders.refusals;
  if (++orders.refused < kRunaway) return true;
  std::fprintf(stderr, "the ring asks without end\n");
  _exit(1);
}

}  // namespace

extern "C" {

int __real_io_uring_submit(io_uring* ring);
int __wrap_io_uring_submit(io_uring* ring) {
  return refuses() ? orders.error : __real_io_uring_submit(ring);
}

int __real_io_uring_submit_and_wait(io_uring* ring, unsigned count);
int __wrap_io_uring_submit_and_wait(io_uring* ring, unsigned count) {
  ++orders.waits_of_liburing;
  return refuses() ? orders.error : __real_io_uring_submit_and_wait(ring, count);
}

int __real_io_uring_submit_and_get_events(io_uring* ring);
int __wrap_io_uring_submit_and_get_events(io_uring* ring) {
  return refuses() ? orders.error : __real_io_uring_submit_and_get_events(ring);
}

int __real_io_uring_enter(unsigned fd, unsigned count, unsigned least, unsigned flags,
                          sigset_t* mask);
int __wrap_io_uring_enter(unsigned fd, unsigned count, unsigned least, unsigned flags,
                          sigset_t* mask) {
  orders.entered_with.push_back(flags);
  return refuses() ? orders.error : __real_io_uring_enter(fd, count, least, flags, mask);
}

}  // extern "C"

namespace virtproxy {
namespace {

constexpr size_t kQueue = 1024;  // entries of the submission queue

class RingFault : public testing::Test {
 protected:
  struct Waiting final : Completion {
    void complete(Op&, Outcome outcome) override { result = outcome.result; }
    Op op{this};
    std::optional<int> result;
  };

  void SetUp() override { open({}); }
  void open(const DriverFeatures& features) {
    orders = {};
    auto opened = IoUringDriver::open(64, features);
    ASSERT_TRUE(opened) << opened.error();
    ring = *std::move(opened);
    if (pair[0] >= 0) return;
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  }
  void TearDown() override {
    orders.refusals = 0;
    ring.reset();
    for (const int fd : pair) close(fd);
  }
  void refuse(int error, unsigned times) {
    orders.error = error;
    orders.refusals = times;
  }
  void poll_once_more() {
    waiting.push_back(std::make_unique<Waiting>());
    ring->poll(waiting.back()->op, {pair[0], -1}, POLLIN);
  }
  void fill_queue() {
    while (waiting.size() < kQueue) poll_once_more();
  }
  void make_readable() { ASSERT_EQ(write(pair[1], "x", 1), 1); }
  void finish() {
    make_readable();
    for (const auto& one : waiting) {
      while (!one->result) {
        ASSERT_EQ(ring->wait(std::nullopt), 0);
        ring->dispatch();
      }
      EXPECT_EQ(*one->result, POLLIN);
    }
  }

  std::unique_ptr<IoUringDriver> ring;
  std::vector<std::unique_ptr<Waiting>> waiting;
  int pair[2] = {-1, -1};
};

TEST_F(RingFault, AFullQueueOfARingThatTakesNothingIsTheEndOfIt) {
  fill_queue();
  refuse(-EAGAIN, kForEver);
  EXPECT_THROW(poll_once_more(), std::system_error);
  EXPECT_EQ(orders.refused, IoUringDriver::kMostRefusals + 1);
}

TEST_F(RingFault, AnErrorThatDoesNotPassIsTheEndAtOnce) {
  fill_queue();
  refuse(-EBADF, kForEver);
  try {
    poll_once_more();
    FAIL() << "it went on";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code().value(), EBADF);
  }
  EXPECT_EQ(orders.refused, 1u);
}

TEST_F(RingFault, AFullQueueThatIsTakenInTheEndGoesOn) {
  fill_queue();
  refuse(-EAGAIN, 7);
  poll_once_more();
  EXPECT_EQ(orders.refused, 7u);
  finish();
}

TEST_F(RingFault, ARingThatTakesNothingEndsTheWait) {
  poll_once_more();
  for (const bool now : {false, true}) {
    refuse(-EAGAIN, kForEver);
    int result = 0;
    while (result == 0) {
      result = ring->wait(now ? std::optional(Driver::kNow) : std::nullopt);
      ring->dispatch();
    }
    EXPECT_EQ(result, -EAGAIN);
    refuse(0, 0);
    finish();  // what ended the wait has passed; the ring is good again
    waiting.clear();
    char byte = 0;
    ASSERT_EQ(read(pair[0], &byte, 1), 1);
    poll_once_more();
  }
  finish();
}

TEST_F(RingFault, RefusalsBetweenWhichSomethingWasTakenAreNoReason) {
  for (unsigned i = 0; i < 5; ++i) {
    poll_once_more();
    refuse(-EBUSY, 20);
    finish();
    waiting.clear();
    char byte = 0;
    ASSERT_EQ(read(pair[0], &byte, 1), 1);
  }
  EXPECT_EQ(orders.refused, 100u);
}

// The kernel may want its completions collected first, however often it says so.
TEST_F(RingFault, CompletionsToCollectAreNoReasonToGiveUp) {
  make_readable();
  poll_once_more();
  ASSERT_EQ(ring->wait(std::nullopt), 0);
  refuse(-EBUSY, 3 * IoUringDriver::kMostRefusals);
  while (orders.refusals > 0) ASSERT_EQ(ring->wait(std::nullopt), 0);
  ring->dispatch();
  EXPECT_EQ(waiting.back()->result, POLLIN);
}

TEST_F(RingFault, AThreadThatWaitsIsNotAccountedAsWaitingForADisk) {
  if (!ring->features().no_iowait) GTEST_SKIP() << "this kernel has no IORING_ENTER_NO_IOWAIT";
  poll_once_more();
  finish();
  ASSERT_FALSE(orders.entered_with.empty());
  for (const unsigned flags : orders.entered_with) {
    EXPECT_NE(flags & IORING_ENTER_NO_IOWAIT, 0u) << flags;
    EXPECT_NE(flags & IORING_ENTER_GETEVENTS, 0u) << flags;
  }
  EXPECT_EQ(orders.waits_of_liburing, 0u);
}

TEST_F(RingFault, WithoutNoIowaitLiburingWaits) {
  for (const char* without : {"no-iowait", "no-iowait,registered-ring"}) {
    DriverFeatures features;
    ASSERT_TRUE(features.disable(without));
    ring.reset();
    open(features);
    poll_once_more();
    finish();
    EXPECT_TRUE(orders.entered_with.empty());
    EXPECT_GT(orders.waits_of_liburing, 0u);
    waiting.clear();
    char byte = 0;
    ASSERT_EQ(read(pair[0], &byte, 1), 1);
  }
}

TEST_F(RingFault, NoIowaitNeedsNoOtherFeature) {
  DriverFeatures features;
  ASSERT_TRUE(features.disable("single-issuer,coop-taskrun,registered-ring,restrictions"));
  ring.reset();
  open(features);
  // More than the queue holds, so that it is submitted by liburing and by hand in turns.
  while (waiting.size() < 3 * kQueue + 1) poll_once_more();
  finish();
}

}  // namespace
}  // namespace virtproxy
