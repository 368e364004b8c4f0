// What the drivers conclude from what they have seen of a descriptor that is added, on the real
// kernel.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <utility>

#include "tests/unit/driver_fixture.h"

namespace virtproxy {
namespace {

class DriverWatch : public EachDriver {
 protected:
  int receive(File file, size_t size) {
    Waiting waiting;
    driver->recv(waiting.op, file, got, size, true);
    return result_of(waiting);
  }
  int wait_for(File file, uint32_t events) {
    Waiting waiting;
    driver->poll(waiting.op, file, events);
    return result_of(waiting);
  }
  int result_of(const Waiting& waiting) {
    run_until([&] { return waiting.result.has_value(); });
    return *waiting.result;
  }

  char got[64];
};

constexpr FileUse kUses[] = {FileUse::kChannel, FileUse::kStream};

TEST_P(DriverWatch, FindsTheEndBehindBytesThatCameWithIt) {
  for (const FileUse use : kUses) {
    Pair pair;
    File file = driver->add_file(pair.fds[0], use);
    EXPECT_EQ(wait_for(file, POLLOUT), POLLOUT);  // room is watched from now on
    for (int i = 0; i < 3; ++i) {
      pair.feed("ab");
      EXPECT_EQ(receive(file, sizeof got), 2);
    }
    pair.feed("cd");
    close(std::exchange(pair.fds[1], -1));
    EXPECT_EQ(receive(file, sizeof got), 2);
    EXPECT_EQ(receive(file, sizeof got), 0);
    driver->remove_file(file);
  }
}

TEST_P(DriverWatch, FindsTheEndOfAConnectionBehindBytesThatCameWithIt) {
  for (const FileUse use : kUses) {
    TcpPair pair;
    File file = driver->add_file(pair.fds[0], use);
    EXPECT_EQ(wait_for(file, POLLOUT), POLLOUT);
    ASSERT_EQ(write(pair.fds[1], "ab", 2), 2);
    EXPECT_EQ(receive(file, sizeof got), 2);
    ASSERT_EQ(write(pair.fds[1], "cd", 2), 2);
    close(std::exchange(pair.fds[1], -1));
    EXPECT_EQ(receive(file, sizeof got), 2);
    EXPECT_EQ(receive(file, sizeof got), 0);
    driver->remove_file(file);
  }
}

// A receive ends at descriptors that were passed: it is short, and there is more.
TEST_P(DriverWatch, AStreamGoesOnBehindPassedDescriptors) {
  Pair pair;
  File file = driver->add_file(pair.fds[0], FileUse::kStream);
  for (int i = 0; i < 20; ++i) {
    char text[] = "ab";
    iovec vector{text, 2};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* passed = CMSG_FIRSTHDR(&message);
    passed->cmsg_level = SOL_SOCKET;
    passed->cmsg_type = SCM_RIGHTS;
    passed->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(passed), &pair.fds[1], sizeof(int));
    ASSERT_EQ(sendmsg(pair.fds[1], &message, 0), 2);
    pair.feed("cdef");
    for (int left = 6; left > 0;) left -= receive(file, sizeof got);
  }
  driver->remove_file(file);
}

// The owner takes bytes itself, as a splice does, and asks whether there are more.
TEST_P(DriverWatch, APollFindsWhatIsThereHoweverOftenItsOwnerReads) {
  for (const FileUse use : kUses) {
    Pair pair;
    File file = driver->add_file(pair.fds[0], use);
    for (int i = 0; i < 40; ++i) {
      pair.feed("abcd");
      EXPECT_EQ(wait_for(file, POLLIN | POLLRDHUP) & POLLIN, POLLIN);
      EXPECT_EQ(::recv(file.fd, got, 2, MSG_DONTWAIT), 2);
      EXPECT_EQ(wait_for(file, POLLIN | POLLRDHUP) & POLLIN, POLLIN);
      EXPECT_EQ(::recv(file.fd, got, 2, MSG_DONTWAIT), 2);
      Waiting waiting;
      driver->poll(waiting.op, file, POLLIN);
      turn();
      EXPECT_FALSE(waiting.result);
      pair.feed("e");
      run_until([&] { return waiting.result.has_value(); });
      EXPECT_EQ(::recv(file.fd, got, 8, MSG_DONTWAIT), 1);
      if (i % 4 == 0) {  // nobody waits for this
        pair.feed("f");
        turn();
        turn();
        EXPECT_EQ(::recv(file.fd, got, 8, MSG_DONTWAIT), 1);
      }
    }
    driver->remove_file(file);
  }
}

TEST_P(DriverWatch, WhatComesAfterItsOwnerFoundNothingIsReceived) {
  for (const FileUse use : kUses) {
    Pair pair;
    File file = driver->add_file(pair.fds[0], use);
    for (int i = 0; i < 40; ++i) {
      pair.feed("ab");
      turn();
      EXPECT_EQ(::recv(file.fd, got, 8, MSG_DONTWAIT), i == 0 ? 2 : 3);
      EXPECT_LT(::recv(file.fd, got, 8, MSG_DONTWAIT), 0);
      driver->found_empty(file);
      pair.feed("c");
      EXPECT_EQ(receive(file, 8), 1);
      pair.feed("d");
    }
    driver->remove_file(file);
  }
}

TEST_P(DriverWatch, RoomIsFoundAgainAndAgain) {
  for (const FileUse use : kUses) {
    Pair pair;
    File file = driver->add_file(pair.fds[0], use);
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(wait_for(file, POLLOUT), POLLOUT);
      pair.fill();
      Waiting waiting;
      driver->poll(waiting.op, file, POLLOUT);
      turn();
      EXPECT_FALSE(waiting.result);
      pair.drain();
      EXPECT_EQ(result_of(waiting), POLLOUT);
      for (int k = 0; i % 3 == 0 && k < 10; ++k) {  // nobody waits for this
        pair.fill();
        pair.drain();
        turn();
      }
    }
    driver->remove_file(file);
  }
}

// Neither while it is added, nor when it was removed and is still open.
TEST_P(DriverWatch, WhatNobodyReadsEndsNoMoreThanSomeTurns) {
  const auto turns = [&] {
    int count = 0;
    for (const Instant deadline = in(std::chrono::milliseconds(30)); in({}) < deadline; ++count) {
      EXPECT_EQ(driver->wait(deadline), 0);
      driver->dispatch();
    }
    return count;
  };
  for (const FileUse use : kUses) {
    for (const bool removed : {false, true}) {
      Pair pair;
      File file = driver->add_file(pair.fds[0], use);
      for (int i = 0; i < 20; ++i) {
        Waiting waiting;
        driver->recv(waiting.op, file, got, sizeof got, true);
        turn();
        pair.feed("a");
        run_until([&] { return waiting.result.has_value(); });
      }
      pair.feed("b");
      if (removed) driver->remove_file(file);
      EXPECT_LE(turns(), 10);
      driver->remove_file(file);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Drivers, DriverWatch, kDrivers, name_of_choice);

}  // namespace
}  // namespace virtproxy
