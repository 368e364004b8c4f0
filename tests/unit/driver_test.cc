// What every driver promises its users, on the real kernel.
#include "uring/io/driver.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/unit/driver_fixture.h"

namespace virtproxy {
namespace {

INSTANTIATE_TEST_SUITE_P(Drivers, EachDriver, kDrivers, name_of_choice);

// One channel may have thousands of completions at once.
TEST_P(EachDriver, HandsOutSomeCompletionsAtATime) {
  constexpr size_t kOperations = 600;
  constexpr unsigned kMost = 200;
  struct Count final : Completion {
    void complete(Op&, Outcome) override { ++completed; }
    size_t completed = 0;
  } count;
  std::deque<Op> ops;
  for (size_t i = 0; i < kOperations; ++i) {
    driver->poll(ops.emplace_back(&count), {-1, -1}, POLLIN);  // Fails when it is submitted.
  }
  ASSERT_EQ(driver->wait(Driver::kNow), 0);
  size_t calls = 0;
  for (bool more = true; more;) {
    const size_t before = count.completed;
    more = driver->dispatch(kMost);
    ++calls;
    EXPECT_LE(count.completed - before, kMost + 128);
  }
  EXPECT_EQ(count.completed, kOperations);
  EXPECT_GE(calls, 2u);
}

TEST_P(EachDriver, WaitsUntilItsDeadline) {
  for (int i = 0; i < 3; ++i) {
    const Instant deadline = in(std::chrono::milliseconds(2));
    while (in({}) < deadline) {
      ASSERT_EQ(driver->wait(deadline), 0);
      driver->dispatch();
    }
  }
}

TEST_P(EachDriver, AnEarlierDeadlineOverridesALaterOne) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  Waiting waiting;
  driver->send(waiting.op, {pair[0], -1}, "x", 1, SendMode::kAll);
  ASSERT_EQ(driver->wait(in(std::chrono::hours(24))), 0);
  driver->dispatch();
  ASSERT_TRUE(waiting.result);
  const Instant deadline = in(std::chrono::milliseconds(5));
  while (in({}) < deadline) {
    ASSERT_EQ(driver->wait(deadline), 0);
    driver->dispatch();
  }
  close(pair[0]);
  close(pair[1]);
}

TEST_P(EachDriver, ADeadlineThatIsPastDoesNotWait) {
  ASSERT_EQ(driver->wait(Driver::kNow), 0);
  ASSERT_EQ(driver->wait(in(std::chrono::seconds(-1))), 0);
  ASSERT_EQ(driver->wait(Instant(0)), 0);
}

TEST_P(EachDriver, CancelledBeforeItWasSubmittedTouchesNoDescriptor) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  ASSERT_EQ(write(pair[1], "bytes", 5), 5);

  // What the application sees when its descriptor is closed, and the number is given to another
  // one, before the request has left.
  const int closed = dup(pair[0]);
  std::byte stolen[8];
  Waiting waiting;
  driver->recv(waiting.op, {closed, -1}, stolen, sizeof stolen, false);
  driver->cancel(waiting.op);
  while (!waiting.result) {
    ASSERT_EQ(driver->wait(in(std::chrono::seconds(5))), 0);
    driver->dispatch();
  }
  EXPECT_LT(*waiting.result, 0);
  EXPECT_FALSE(waiting.op.pending);
  char kept[8];
  EXPECT_EQ(recv(pair[0], kept, sizeof kept, MSG_DONTWAIT), 5);
  for (const int fd : {closed, pair[0], pair[1]}) close(fd);
}

TEST_P(EachDriver, CancelledAfterItWasSubmittedCompletes) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  std::byte bytes[8];
  Waiting waiting;
  driver->recv(waiting.op, {pair[0], -1}, bytes, sizeof bytes, true);
  ASSERT_EQ(driver->wait(Driver::kNow), 0);
  driver->dispatch();
  ASSERT_TRUE(waiting.op.pending);
  driver->cancel(waiting.op);
  while (!waiting.result) {
    ASSERT_EQ(driver->wait(in(std::chrono::seconds(5))), 0);
    driver->dispatch();
  }
  EXPECT_EQ(*waiting.result, -ECANCELED);
  close(pair[0]);
  close(pair[1]);
}

TEST_P(EachDriver, ReceivesIntoBuffersOfAGroupUntilNoneIsLeft) {
  Pair pair;
  std::array<std::array<char, 16>, 2> memory{};
  ASSERT_TRUE(driver->open_group(3, 4));
  const OfferedBuffer buffers[] = {{memory[0].data(), 16, 0}, {memory[1].data(), 16, 1}};
  driver->offer(3, buffers);
  std::vector<int> used;
  for (const char* text : {"one", "two"}) {
    Waiting waiting;
    driver->recv_provided(waiting.op, pair.file(), 3, 16, true);
    turn();
    EXPECT_TRUE(waiting.op.pending) << "it holds a buffer while it waits, or did not wait";
    pair.feed(text);
    run_until([&] { return waiting.result.has_value(); });
    ASSERT_EQ(waiting.result, 3);
    ASSERT_TRUE(waiting.buffer == 0 || waiting.buffer == 1);
    EXPECT_EQ(std::string(memory[static_cast<size_t>(waiting.buffer)].data(), 3), text);
    used.push_back(waiting.buffer);
  }
  EXPECT_NE(used[0], used[1]);
  Waiting waiting;
  pair.feed("three");
  driver->recv_provided(waiting.op, pair.file(), 3, 16, true);
  run_until([&] { return waiting.result.has_value(); });
  EXPECT_EQ(waiting.result, -ENOBUFS);
  EXPECT_EQ(waiting.buffer, Outcome::kNoBuffer);
  driver->offer(3, {buffers, 1});
  Waiting again;
  driver->recv_provided(again.op, pair.file(), 3, 4, false);
  run_until([&] { return again.result.has_value(); });
  EXPECT_EQ(again.result, 4) << "more than it was to receive";
  EXPECT_EQ(again.buffer, 0);
  driver->close_group(3);
}

TEST_P(EachDriver, ReceivesWhatCameBeforeItAskedAndWhatAReceiveLeft) {
  for (const bool added : {false, true}) {
    Pair pair;
    File file = added ? driver->add_file(pair.fds[0], FileUse::kStream) : pair.file();
    char got[8];
    const auto receive = [&](size_t size) {
      Waiting waiting;
      driver->recv(waiting.op, file, got, size, true);
      run_until([&] { return waiting.result.has_value(); });
      return *waiting.result;
    };
    pair.feed("ab");
    EXPECT_EQ(receive(1), 1);
    EXPECT_EQ(receive(8), 1);
    pair.feed("cdef");
    turn();  // nothing asks for it
    EXPECT_EQ(receive(3), 3);
    EXPECT_EQ(receive(8), 1);
    close(std::exchange(pair.fds[1], -1));
    turn();
    EXPECT_EQ(receive(8), 0);
    driver->remove_file(file);
  }
}

TEST_P(EachDriver, AMessageLeavesWholeThroughASocketThatTakesLittle) {
  Pair pair;
  std::vector<unsigned char> bytes(3 << 20);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i * 7 + i / 251);
  std::vector<iovec> vectors;
  for (size_t at = 0; at < bytes.size(); at += 400'000) {
    vectors.push_back({bytes.data() + at, std::min<size_t>(400'000, bytes.size() - at)});
  }
  msghdr message{};
  message.msg_iov = vectors.data();
  message.msg_iovlen = vectors.size();
  Waiting waiting;
  driver->sendmsg(waiting.op, pair.file(), &message, SendMode::kAll);
  ASSERT_EQ(driver->wait(Driver::kNow), 0);
  ASSERT_TRUE(driver->submitted());
  message = {};
  std::fill(vectors.begin(), vectors.end(), iovec{});  // are read no more
  driver->dispatch();
  EXPECT_TRUE(waiting.op.pending);
  std::vector<unsigned char> got;
  std::vector<unsigned char> piece(100'000);
  run_until([&] {
    const ssize_t count = recv(pair.fds[1], piece.data(), piece.size(), MSG_DONTWAIT);
    if (count > 0) got.insert(got.end(), piece.begin(), piece.begin() + count);
    return got.size() == bytes.size() && waiting.result.has_value();
  });
  EXPECT_EQ(waiting.result, static_cast<int>(bytes.size()));
  EXPECT_TRUE(got == bytes);
}

TEST_P(EachDriver, ASendWaitsForRoomUnlessItIsNotTo) {
  Pair pair;
  pair.fill();
  Waiting refused;
  driver->send(refused.op, pair.file(), "x", 1, SendMode::kNow);
  run_until([&] { return refused.result.has_value(); });
  EXPECT_EQ(refused.result, -EAGAIN);
  Waiting waiting;
  driver->send(waiting.op, pair.file(), "x", 1, SendMode::kAll);
  turn();
  EXPECT_TRUE(waiting.op.pending);
  pair.drain();
  run_until([&] { return waiting.result.has_value(); });
  EXPECT_EQ(waiting.result, 1);
  close(std::exchange(pair.fds[1], -1));
  Waiting nobody;
  driver->send(nobody.op, pair.file(), "x", 1, SendMode::kAll);
  run_until([&] { return nobody.result.has_value(); });
  EXPECT_EQ(nobody.result, -EPIPE);
}

// Of a receiver that has stopped reading, whatever the kernel does with the send, see SendMode.
// That each user of a driver keeps to it is tested by the simulator (oracle "cancelled send").
TEST_P(EachDriver, NoSendOutlivesItsSocket) {
  constexpr size_t kRead = 1'000'000;
  const std::string data(1'200'000, 'x');
  for (int round = 0; round < 60; ++round) {
    TcpPair pair;
    std::jthread receiver([&] {
      receive_bytes(pair.fds[1], kRead);
      shutdown(pair.fds[1], SHUT_RDWR);
    });
    Waiting sending;
    driver->send(sending.op, pair.file(), data.data(), data.size(), SendMode::kAll);
    Waiting ended;
    driver->poll(ended.op, pair.file(), POLLIN);
    run_until([&] { return ended.result.has_value(); });
    shutdown(pair.fds[0], SHUT_RDWR);
    driver->cancel(sending.op);
    run_until([&] { return !sending.op.pending; });
  }
}

// One that receives, one that sends, and one that notices the end, on one descriptor.
TEST_P(EachDriver, OperationsOfOneDescriptorDoNotDisturbEachOther) {
  for (const bool added : {false, true}) {
    Pair pair;
    File file = added ? driver->add_file(pair.fds[0], FileUse::kStream) : pair.file();
    pair.fill();
    char got = 0;
    Waiting received;
    Waiting sent;
    Waiting hangup;
    driver->recv(received.op, file, &got, 1, true);
    driver->poll_hangup(hangup.op, file);
    driver->poll(sent.op, file, POLLOUT);
    turn();
    EXPECT_TRUE(received.op.pending && sent.op.pending && hangup.op.pending);
    pair.feed("r");
    run_until([&] { return received.result.has_value(); });
    EXPECT_TRUE(sent.op.pending && hangup.op.pending);
    pair.drain();
    run_until([&] { return sent.result.has_value(); });
    EXPECT_EQ(*sent.result & (POLLOUT | POLLERR | POLLHUP), POLLOUT);
    EXPECT_FALSE(hangup.result);
    close(std::exchange(pair.fds[1], -1));
    run_until([&] { return hangup.result.has_value(); });
    EXPECT_NE(*hangup.result & POLLHUP, 0);
    EXPECT_EQ(hangup.more, hangup.op.pending);
    driver->cancel(hangup.op);
    run_until([&] { return !hangup.op.pending; });
    driver->remove_file(file);
  }
}

TEST_P(EachDriver, ANumberThatIsUsedAnewIsAnotherDescriptor) {
  for (const bool added : {false, true}) {
    Pair first;
    const int number = first.fds[0];
    File file = added ? driver->add_file(number, FileUse::kStream) : File{number, -1};
    char got = 0;
    Waiting old;
    driver->recv(old.op, file, &got, 1, true);
    turn();
    driver->cancel(old.op);
    driver->remove_file(file);
    Pair second;
    ASSERT_EQ(dup2(second.fds[0], number), number);
    File anew = added ? driver->add_file(number, FileUse::kStream) : File{number, -1};
    Waiting waiting;
    driver->recv(waiting.op, anew, &got, 1, true);
    run_until([&] { return old.result.has_value(); });
    EXPECT_EQ(old.result, -ECANCELED);
    EXPECT_FALSE(waiting.result);
    second.feed("x");
    run_until([&] { return waiting.result.has_value(); });
    EXPECT_EQ(waiting.result, 1);
    driver->remove_file(anew);
  }
}

TEST_P(EachDriver, ADescriptorThatWasRemovedIsUsedOnByOthers) {
  Pair pair;
  char got = 0;
  File file = driver->add_file(pair.fds[0], FileUse::kStream);
  Waiting first;
  driver->recv(first.op, file, &got, 1, true);
  turn();
  driver->cancel(first.op);
  driver->remove_file(file);
  for (int use = 0; use < 3; ++use) {
    Waiting waiting;
    File other = use == 1 ? driver->add_file(pair.fds[0], FileUse::kStream) : pair.file();
    driver->poll(waiting.op, other, POLLIN);
    turn();
    EXPECT_FALSE(waiting.result) << use;
    pair.feed("x");
    run_until([&] { return waiting.result.has_value(); });
    EXPECT_EQ(waiting.result, POLLIN) << use;
    EXPECT_EQ(recv(pair.fds[0], &got, 1, MSG_DONTWAIT), 1);
    driver->remove_file(other);
  }
}

TEST_P(EachDriver, AcceptsAllThatConnect) {
  constexpr size_t kClients = 40;
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;  // and a name that the kernel chooses
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address.sun_family), 0);
  socklen_t size = sizeof address;
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size), 0);
  ASSERT_EQ(listen(listener, 64), 0);
  struct Acceptor final : Completion {
    void complete(Op& done, Outcome outcome) override {
      EXPECT_EQ(outcome.more, done.pending);
      if (outcome.result < 0) return;
      EXPECT_NE(fcntl(outcome.result, F_GETFL) & O_NONBLOCK, 0);
      close(outcome.result);
      ++accepted;
      if (!outcome.more) driver->accept(op, file);
    }
    Op op{this};
    Driver* driver = nullptr;
    File file;
    size_t accepted = 0;
  } acceptor;
  acceptor.driver = driver.get();
  acceptor.file = driver->add_file(listener, FileUse::kListen);
  driver->accept(acceptor.op, acceptor.file);
  turn();
  std::vector<int> clients;
  for (size_t i = 0; i < kClients; ++i) {
    clients.push_back(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(clients.back(), reinterpret_cast<sockaddr*>(&address), size), 0);
  }
  run_until([&] { return acceptor.accepted == kClients; });
  driver->cancel(acceptor.op);
  driver->remove_file(acceptor.file);
  close(listener);
  run_until([&] { return !acceptor.op.pending; });
  for (const int client : clients) close(client);
}

TEST_P(EachDriver, ARegularFileIsReadAndWrittenAndEndsNoTurn) {
  const int fd = memfd_create("regular", MFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  Waiting written;
  driver->write(written.op, {fd, -1}, "text", 4);
  run_until([&] { return written.result.has_value(); });
  EXPECT_EQ(written.result, 4);
  ASSERT_EQ(lseek(fd, 0, SEEK_SET), 0);
  char got[8];
  Waiting was_read;
  driver->read(was_read.op, {fd, -1}, got, sizeof got);
  run_until([&] { return was_read.result.has_value(); });
  EXPECT_EQ(was_read.result, 4);
  Waiting never;
  driver->poll(never.op, {fd, -1}, POLLRDHUP);  // refused, or waited for in vain
  for (int i = 0; i < 3; ++i) turn();
  if (!never.result) {
    driver->cancel(never.op);
    run_until([&] { return never.result.has_value(); });
    EXPECT_EQ(never.result, -ECANCELED);
  } else {
    EXPECT_EQ(never.result, -EINVAL);
  }
  close(fd);
}

TEST_P(EachDriver, AFileIsReadAndWrittenAtAnOffsetAndSynced) {
  const int fd = memfd_create("regular", MFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  Waiting late;
  Waiting early;
  driver->write_at(late.op, {fd, -1}, "tail", 4, 4096);
  driver->write_at(early.op, {fd, -1}, "head", 4, 0);
  run_until([&] { return late.result.has_value() && early.result.has_value(); });
  EXPECT_EQ(late.result, 4);
  EXPECT_EQ(early.result, 4);
  Waiting synced;
  driver->sync_data(synced.op, {fd, -1});
  run_until([&] { return synced.result.has_value(); });
  EXPECT_EQ(synced.result, 0);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0) << "the file's own place is not used";
  char got[8] = {};
  Waiting was_read;
  driver->read_at(was_read.op, {fd, -1}, got, sizeof got, 4094);
  run_until([&] { return was_read.result.has_value(); });
  EXPECT_EQ(was_read.result, 6);
  EXPECT_EQ(std::string(got, 6), std::string("\0\0tail", 6));
  Waiting failed;
  driver->sync_data(failed.op, {-1, -1});
  run_until([&] { return failed.result.has_value(); });
  EXPECT_EQ(failed.result, -EBADF);
  close(fd);
}

TEST_P(EachDriver, ATerminalIsReadOnceItHasSomething) {
  const int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(master, 0);
  ASSERT_EQ(unlockpt(master), 0);
  const int slave = ::open(ptsname(master), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(slave, 0);
  File file = driver->add_file(master, FileUse::kDevice);
  char got[8];
  Waiting first;
  driver->read(first.op, file, got, sizeof got);
  turn();
  Waiting ready;
  if (first.result) {  // it may be waited for, or not
    EXPECT_EQ(first.result, -EAGAIN);
    driver->poll(ready.op, file, POLLIN);
    turn();
    EXPECT_FALSE(ready.result);
  }
  ASSERT_EQ(::write(slave, "t", 1), 1);
  run_until([&] { return !ready.op.pending && !first.op.pending; });
  if (ready.result) {
    EXPECT_EQ(*ready.result & POLLIN, POLLIN);
    Waiting second;
    driver->read(second.op, file, got, sizeof got);
    run_until([&] { return second.result.has_value(); });
    EXPECT_EQ(second.result, 1);
  } else {
    EXPECT_EQ(first.result, 1);
  }
  driver->remove_file(file);
  close(slave);
  close(master);
}

TEST_P(EachDriver, ABadDescriptorIsAnError) {
  Waiting waiting;
  char got = 0;
  driver->recv(waiting.op, {1 << 20, -1}, &got, 1, false);
  run_until([&] { return waiting.result.has_value(); });
  EXPECT_EQ(waiting.result, -EBADF);
}

}  // namespace
}  // namespace virtproxy
