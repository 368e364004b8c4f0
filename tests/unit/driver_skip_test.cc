// Sends whose success is not waited for, on the real kernel, and the names of features.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "tests/unit/driver_fixture.h"

namespace virtproxy {
namespace {

TEST(DriverFeaturesTest, TheEarlierNameOfSkipSuccessGoesOn) {
  DriverFeatures features;
  ASSERT_TRUE(features.disable("quiet-sends,splice"));
  EXPECT_FALSE(features.skip_success);
  EXPECT_FALSE(features.splice);
}

class SkipSuccess : public EachDriver {
 protected:
  void SetUp() override {
    EachDriver::SetUp();
    if (!driver->features().skip_success) GTEST_SKIP() << "this kernel lacks them";
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  }
  void TearDown() override {
    for (const int fd : pair) close(fd);
  }
  void send(const void* from, size_t size) {
    driver->send(waiting.op, {pair[0], -1}, from, size, SendMode::kNow);
    driver->skip_success(waiting.op);
  }

  int pair[2] = {-1, -1};
  Waiting waiting;
};

TEST_P(SkipSuccess, WakesNobodyAndIsReportedBeforeWhatDoes) {
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
  driver->recv(receiver.op, {other[0], -1}, &byte, 1, true);
  send("x", 1);
  std::thread answerer([&] {
    char got = 0;
    EXPECT_EQ(read(pair[1], &got, 1), 1);
    EXPECT_EQ(write(other[1], &got, 1), 1);
  });
  ASSERT_EQ(driver->wait(std::nullopt), 0);
  driver->dispatch();
  answerer.join();
  EXPECT_EQ(receiver.result, 1) << "the wait ended before";
  EXPECT_TRUE(receiver.send_was_reported);
  EXPECT_EQ(waiting.result, 1);
  EXPECT_FALSE(waiting.op.pending);
  for (const int fd : other) close(fd);
}

TEST_P(SkipSuccess, IsReportedAtOnceWhereThereIsNoRoom) {
  const std::vector<std::byte> much(1 << 20);
  while (::send(pair[0], much.data(), much.size(), MSG_DONTWAIT) > 0) continue;
  send("x", 1);
  ASSERT_EQ(driver->wait(std::nullopt), 0);
  driver->dispatch();
  EXPECT_EQ(waiting.result, -EAGAIN);
}

TEST_P(SkipSuccess, SaysHowMuchFoundRoom) {
  const std::vector<std::byte> much(4 << 20);
  send(much.data(), much.size());
  ASSERT_EQ(driver->wait(std::nullopt), 0);
  driver->dispatch();
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

TEST_P(SkipSuccess, IsReportedAtOnceWhenNobodyIsThere) {
  close(std::exchange(pair[1], -1));
  send("x", 1);
  ASSERT_EQ(driver->wait(std::nullopt), 0);
  driver->dispatch();
  EXPECT_EQ(waiting.result, -EPIPE);
}

TEST_P(SkipSuccess, CancelledBeforeItWasSubmittedSendsNothing) {
  send("x", 1);
  driver->cancel(waiting.op);
  ASSERT_EQ(driver->wait(std::nullopt), 0);
  driver->dispatch();
  ASSERT_TRUE(waiting.result);
  EXPECT_LT(*waiting.result, 0);
  char got = 0;
  EXPECT_EQ(recv(pair[1], &got, 1, MSG_DONTWAIT), -1);
}

TEST_P(SkipSuccess, ManyMayBeUnderWayAndSomeOfThemFail) {
  // More than fit into the submission queue, so that some leave before they are waited for.
  constexpr size_t kSends = 2500;
  std::vector<std::unique_ptr<Waiting>> sends;
  int gone[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, gone), 0);
  close(gone[1]);
  for (size_t i = 0; i < kSends; ++i) {
    sends.push_back(std::make_unique<Waiting>());
    const int fd = i % 7 == 3 ? gone[0] : pair[0];
    driver->send(sends[i]->op, {fd, -1}, "x", 1, SendMode::kNow);
    driver->skip_success(sends[i]->op);
    char got[64];
    while (i % 50 == 49 && recv(pair[1], got, sizeof got, MSG_DONTWAIT) > 0) continue;
  }
  ASSERT_EQ(driver->wait(Driver::kNow), 0);
  driver->dispatch();
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


INSTANTIATE_TEST_SUITE_P(Drivers, SkipSuccess, kDrivers, name_of_choice);

}  // namespace
}  // namespace virtproxy
