// What is special about the driver over io_uring, on the real kernel: its restrictions, and its queue.
#include "uring/io/io_uring_driver.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <optional>
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
                             IORING_OP_TIMEOUT_REMOVE, IORING_OP_FSYNC};
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
  ring_->send(op, file, "ring", 4, SendMode::kNow);
  while (op.pending) {
    ASSERT_EQ(ring_->wait(std::nullopt), 0);
    ring_->dispatch();
  }
  EXPECT_EQ(sink.result, 4);
  ring_->remove_file(file);
  for (const int fd : pair) close(fd);
}

struct Waiting final : Completion {
  void complete(Op&, Outcome outcome) override { result = outcome.result; }

  Op op{this};
  std::optional<int> result;
};

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

}  // namespace
}  // namespace virtproxy
