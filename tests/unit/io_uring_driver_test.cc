// What the ring promises its users, on the real kernel.
#include "uring/io/io_uring_driver.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <deque>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace virtproxy {
namespace {

// Submits one request, which need not be one that a Ring makes, and returns its result.
int result_of(IoUringDriver& ring, const io_uring_sqe& request) {
  io_uring_sqe* entry = io_uring_get_sqe(ring.raw());
  *entry = request;
  EXPECT_GE(io_uring_submit(ring.raw()), 0);
  io_uring_cqe* completion = nullptr;
  EXPECT_EQ(io_uring_wait_cqe(ring.raw(), &completion), 0);
  const int result = completion->res;
  io_uring_cqe_seen(ring.raw(), completion);
  return result;
}

io_uring_sqe request(uint8_t opcode) {
  io_uring_sqe entry{};
  entry.opcode = opcode;
  return entry;
}

io_uring_sqe open_request() {
  io_uring_sqe entry = request(IORING_OP_OPENAT);
  entry.fd = AT_FDCWD;
  entry.addr = reinterpret_cast<uintptr_t>("/etc/passwd");
  entry.open_flags = O_RDONLY | O_CLOEXEC;
  return entry;
}

int register_with(IoUringDriver& ring, unsigned what, const void* argument, unsigned count) {
  const auto result = syscall(__NR_io_uring_register, ring.raw()->ring_fd, what, argument, count);
  return result < 0 ? -errno : static_cast<int>(result);
}

class RingRestrictions : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = IoUringDriver::open(1, DriverFeatures{});
    ASSERT_TRUE(opened) << opened.error();
    ring_ = *std::move(opened);
    if (!ring_->features().restrictions) GTEST_SKIP() << "this kernel refuses restrictions";
  }

  std::unique_ptr<IoUringDriver> ring_;
};

TEST_F(RingRestrictions, AnOpenThroughTheRingIsDenied) {
  EXPECT_EQ(result_of(*ring_, open_request()), -EACCES);
}

TEST_F(RingRestrictions, WithoutThemItIsNot) {
  DriverFeatures features;
  ASSERT_TRUE(features.disable("restrictions"));
  const auto open = IoUringDriver::open(1, features);
  ASSERT_TRUE(open);
  const int fd = result_of(**open, open_request());
  EXPECT_GE(fd, 0);
  close(fd);
}

TEST_F(RingRestrictions, EveryOperationThatIsNotUsedIsDenied) {
  constexpr std::array kUsed{IORING_OP_RECV,          IORING_OP_READ,         IORING_OP_WRITE,
                             IORING_OP_SEND,          IORING_OP_SENDMSG,      IORING_OP_POLL_ADD,
                             IORING_OP_ACCEPT,        IORING_OP_ASYNC_CANCEL, IORING_OP_TIMEOUT,
                             IORING_OP_TIMEOUT_REMOVE};
  for (int opcode = 0; opcode < IORING_OP_LAST; ++opcode) {
    if (std::find(kUsed.begin(), kUsed.end(), opcode) != kUsed.end()) continue;
    io_uring_sqe entry = request(static_cast<uint8_t>(opcode));
    entry.fd = -1;
    EXPECT_EQ(result_of(*ring_, entry), -EACCES) << opcode;
  }
}

TEST_F(RingRestrictions, AFlagThatIsNotUsedIsDenied) {
  for (const unsigned flag : {IOSQE_IO_DRAIN, IOSQE_IO_LINK, IOSQE_IO_HARDLINK, IOSQE_ASYNC}) {
    io_uring_sqe entry = request(IORING_OP_POLL_ADD);
    entry.fd = -1;
    entry.flags = static_cast<uint8_t>(flag);
    EXPECT_EQ(result_of(*ring_, entry), -EACCES) << flag;
  }
}

TEST_F(RingRestrictions, ARegistrationThatIsNotUsedIsDenied) {
  for (const unsigned what :
       {IORING_REGISTER_PERSONALITY, IORING_REGISTER_EVENTFD, IORING_REGISTER_PROBE,
        IORING_REGISTER_RESTRICTIONS, IORING_REGISTER_IOWQ_AFF}) {
    EXPECT_EQ(register_with(*ring_, what, nullptr, 0), -EACCES) << what;
  }
}

// What the daemon does all day still works: descriptors registered later, bytes both ways.
TEST_F(RingRestrictions, WhatIsUsedGoesOn) {
  struct Sink final : Completion {
    void complete(Op&, Outcome outcome) override { result = outcome.result; }
    int result = 0;
  } sink;
  Op op(&sink);
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  File file = ring_->add_file(pair[0], FileUse::kChannel);
  EXPECT_GE(file.index, 0);
  ring_->send(op, file, "ring", 4, 0);
  while (op.pending) {
    ASSERT_EQ(ring_->wait(std::nullopt), 0);
    ring_->dispatch();
  }
  EXPECT_EQ(sink.result, 4);
  ring_->remove_file(file);
  for (const int fd : pair) close(fd);
}

Instant in(Duration duration) {
  return std::chrono::duration_cast<Instant>(std::chrono::steady_clock::now().time_since_epoch()) +
         duration;
}

struct Waiting final : Completion {
  void complete(Op&, Outcome outcome) override { result = outcome.result; }

  Op op{this};
  std::optional<int> result;
};

// One channel may have thousands of completions at once.
TEST(Ring, HandsOutSomeCompletionsAtATime) {
  constexpr size_t kOperations = 600;
  constexpr unsigned kMost = 200;
  auto ring = IoUringDriver::open(4096, {});
  if (!ring) GTEST_SKIP() << ring.error();
  struct Count final : Completion {
    void complete(Op&, Outcome) override { ++completed; }
    size_t completed = 0;
  } count;
  std::deque<Op> ops;
  for (size_t i = 0; i < kOperations; ++i) {
    (*ring)->poll(ops.emplace_back(&count), {-1, -1}, POLLIN);  // Fails when it is submitted.
  }
  ASSERT_EQ((*ring)->wait(Driver::kNow), 0);
  size_t calls = 0;
  for (bool more = true; more;) {
    const size_t before = count.completed;
    more = (*ring)->dispatch(kMost);
    ++calls;
    EXPECT_LE(count.completed - before, kMost + 128);
  }
  EXPECT_EQ(count.completed, kOperations);
  EXPECT_GE(calls, 2u);
}

TEST(Ring, WaitsUntilItsDeadline) {
  auto ring = IoUringDriver::open(64, {});
  if (!ring) GTEST_SKIP() << ring.error();
  for (int i = 0; i < 3; ++i) {
    const Instant deadline = in(std::chrono::milliseconds(2));
    while (in({}) < deadline) {
      ASSERT_EQ((*ring)->wait(deadline), 0);
      (*ring)->dispatch();
    }
  }
}

TEST(Ring, AnEarlierDeadlineOverridesALaterOne) {
  auto ring = IoUringDriver::open(64, {});
  if (!ring) GTEST_SKIP() << ring.error();
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  Waiting waiting;
  (*ring)->send(waiting.op, {pair[0], -1}, "x", 1, 0);
  ASSERT_EQ((*ring)->wait(in(std::chrono::hours(24))), 0);
  (*ring)->dispatch();
  ASSERT_TRUE(waiting.result);
  const Instant deadline = in(std::chrono::milliseconds(5));
  while (in({}) < deadline) {
    ASSERT_EQ((*ring)->wait(deadline), 0);
    (*ring)->dispatch();
  }
  close(pair[0]);
  close(pair[1]);
}

TEST(Ring, ADeadlineThatIsPastDoesNotWait) {
  auto ring = IoUringDriver::open(64, {});
  if (!ring) GTEST_SKIP() << ring.error();
  ASSERT_EQ((*ring)->wait(Driver::kNow), 0);
  ASSERT_EQ((*ring)->wait(in(std::chrono::seconds(-1))), 0);
  ASSERT_EQ((*ring)->wait(Instant(0)), 0);
}

TEST(Ring, CancelledBeforeItWasSubmittedTouchesNoDescriptor) {
  auto ring = IoUringDriver::open(64, {});
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
    ASSERT_EQ((*ring)->wait(in(std::chrono::seconds(5))), 0);
    (*ring)->dispatch();
  }
  EXPECT_LT(*waiting.result, 0);
  EXPECT_FALSE(waiting.op.pending);
  char kept[8];
  EXPECT_EQ(recv(pair[0], kept, sizeof kept, MSG_DONTWAIT), 5);
  for (const int fd : {closed, pair[0], pair[1]}) close(fd);
}

TEST(Ring, CancelledAfterItWasSubmittedCompletes) {
  auto ring = IoUringDriver::open(64, {});
  if (!ring) GTEST_SKIP() << ring.error();
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  std::byte bytes[8];
  Waiting waiting;
  (*ring)->recv(waiting.op, {pair[0], -1}, bytes, sizeof bytes, true);
  ASSERT_EQ((*ring)->wait(Driver::kNow), 0);
  (*ring)->dispatch();
  ASSERT_TRUE(waiting.op.pending);
  (*ring)->cancel(waiting.op);
  while (!waiting.result) {
    ASSERT_EQ((*ring)->wait(in(std::chrono::seconds(5))), 0);
    (*ring)->dispatch();
  }
  EXPECT_EQ(*waiting.result, -ECANCELED);
  close(pair[0]);
  close(pair[1]);
}

// After 2^32 requests places come round again. The kernel's own counters cannot be set, so nothing
// is submitted here: the queue is read where it lies.
TEST(Ring, CancelsNoOtherRequestThatHasItsPlace) {
  auto ring = IoUringDriver::open(64, {});
  if (!ring) GTEST_SKIP() << ring.error();
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  Waiting old;
  std::byte bytes[8];
  (*ring)->recv(old.op, {pair[0], -1}, bytes, sizeof bytes, true);
  ASSERT_EQ((*ring)->wait(Driver::kNow), 0);
  (*ring)->dispatch();
  ASSERT_TRUE(old.op.pending);

  io_uring_sq& queue = (*ring)->raw()->sq;
  const io_uring_sq before = queue;
  unsigned head = old.op.place;
  queue.khead = &head;
  queue.sqe_head = queue.sqe_tail = head;
  Waiting other;
  (*ring)->poll(other.op, {pair[1], -1}, POLLIN);
  ASSERT_EQ(other.op.place, old.op.place);
  (*ring)->cancel(old.op);
  EXPECT_EQ(queue.sqes[head & queue.ring_mask].fd, pair[1]) << "it was taken for the cancelled one";
  ASSERT_EQ(io_uring_sq_ready((*ring)->raw()), 2u);
  const io_uring_sqe& last = queue.sqes[(head + 1) & queue.ring_mask];
  EXPECT_EQ(last.opcode, IORING_OP_ASYNC_CANCEL);
  EXPECT_EQ(last.addr, reinterpret_cast<uintptr_t>(&old.op));
  queue = before;

  (*ring)->cancel(old.op);
  while (!old.result) {
    ASSERT_EQ((*ring)->wait(std::nullopt), 0);
    (*ring)->dispatch();
  }
  for (const int fd : pair) close(fd);
}

TEST(RingFeaturesTest, TheEarlierNameOfSkipSuccessGoesOn) {
  DriverFeatures features;
  ASSERT_TRUE(features.disable("quiet-sends,splice"));
  EXPECT_FALSE(features.skip_success);
  EXPECT_FALSE(features.splice);
}

class SkipSuccess : public testing::Test {
 protected:
  void SetUp() override {
    auto opened = IoUringDriver::open(64, {});
    ASSERT_TRUE(opened) << opened.error();
    ring = *std::move(opened);
    if (!ring->features().skip_success) GTEST_SKIP() << "this kernel lacks them";
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  }
  void TearDown() override {
    for (const int fd : pair) close(fd);
  }
  void send(const void* from, size_t size) {
    ring->send(waiting.op, {pair[0], -1}, from, size, MSG_DONTWAIT);
    ring->skip_success(waiting.op);
  }

  std::unique_ptr<IoUringDriver> ring;
  int pair[2] = {-1, -1};
  Waiting waiting;
};

TEST_F(SkipSuccess, WakesNobodyAndIsReportedBeforeWhatDoes) {
  int other[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, other), 0);
  struct Receiver final : Completion {
    void complete(Op&, Outcome outcome) override {
      result = outcome.result;
      send_was_reported = send->result.has_value();
    }
    Op op{this};
    Waiting* send;
    std::optional<int> result;
    bool send_was_reported = false;
  } receiver;
  receiver.send = &waiting;
  char byte = 0;
  ring->recv(receiver.op, {other[0], -1}, &byte, 1, true);
  send("x", 1);
  std::thread answerer([&] {
    char got = 0;
    EXPECT_EQ(read(pair[1], &got, 1), 1);
    EXPECT_EQ(write(other[1], &got, 1), 1);
  });
  ASSERT_EQ(ring->wait(std::nullopt), 0);
  ring->dispatch();
  answerer.join();
  EXPECT_EQ(receiver.result, 1) << "the wait ended before";
  EXPECT_TRUE(receiver.send_was_reported);
  EXPECT_EQ(waiting.result, 1);
  EXPECT_FALSE(waiting.op.pending);
  for (const int fd : other) close(fd);
}

TEST_F(SkipSuccess, IsReportedAtOnceWhereThereIsNoRoom) {
  const std::vector<std::byte> much(1 << 20);
  while (::send(pair[0], much.data(), much.size(), MSG_DONTWAIT) > 0) continue;
  send("x", 1);
  ASSERT_EQ(ring->wait(std::nullopt), 0);
  ring->dispatch();
  EXPECT_EQ(waiting.result, -EAGAIN);
}

TEST_F(SkipSuccess, SaysHowMuchFoundRoom) {
  const std::vector<std::byte> much(4 << 20);
  send(much.data(), much.size());
  ASSERT_EQ(ring->wait(std::nullopt), 0);
  ring->dispatch();
  ASSERT_TRUE(waiting.result);
  ASSERT_GT(*waiting.result, 0);
  std::vector<std::byte> got(much.size());
  size_t received = 0;
  for (;;) {
    const ssize_t count = recv(pair[1], got.data(), got.size(), MSG_DONTWAIT);
    if (count <= 0) break;
    received += static_cast<size_t>(count);
  }
  EXPECT_LT(received, much.size());
  EXPECT_EQ(static_cast<size_t>(*waiting.result), received);
}

TEST_F(SkipSuccess, IsReportedAtOnceWhenNobodyIsThere) {
  close(std::exchange(pair[1], -1));
  send("x", 1);
  ASSERT_EQ(ring->wait(std::nullopt), 0);
  ring->dispatch();
  EXPECT_EQ(waiting.result, -EPIPE);
}

TEST_F(SkipSuccess, CancelledBeforeItWasSubmittedSendsNothing) {
  send("x", 1);
  ring->cancel(waiting.op);
  ASSERT_EQ(ring->wait(std::nullopt), 0);
  ring->dispatch();
  ASSERT_TRUE(waiting.result);
  EXPECT_LT(*waiting.result, 0);
  char got = 0;
  EXPECT_EQ(recv(pair[1], &got, 1, MSG_DONTWAIT), -1);
}

TEST_F(SkipSuccess, ManyMayBeUnderWayAndSomeOfThemFail) {
  // More than fit into the submission queue, so that some leave before they are waited for.
  constexpr size_t kSends = 2500;
  std::vector<std::unique_ptr<Waiting>> sends;
  int gone[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, gone), 0);
  close(gone[1]);
  for (size_t i = 0; i < kSends; ++i) {
    sends.push_back(std::make_unique<Waiting>());
    const int fd = i % 7 == 3 ? gone[0] : pair[0];
    ring->send(sends[i]->op, {fd, -1}, "x", 1, MSG_DONTWAIT);
    ring->skip_success(sends[i]->op);
    char got[64];
    while (i % 50 == 49 && recv(pair[1], got, sizeof got, MSG_DONTWAIT) > 0) continue;
  }
  ASSERT_EQ(ring->wait(Driver::kNow), 0);
  ring->dispatch();
  for (size_t i = 0; i < kSends; ++i) {
    ASSERT_TRUE(sends[i]->result) << i;
    EXPECT_FALSE(sends[i]->op.pending);
    if (i % 7 == 3) {
      EXPECT_EQ(sends[i]->result, -EPIPE) << i;
    } else {
      EXPECT_TRUE(sends[i]->result == 1 || sends[i]->result == -EAGAIN) << i;
    }
  }
  close(gone[0]);
}

}  // namespace
}  // namespace virtproxy
