#include "uring/buffers/send_queue.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <random>
#include <string>

namespace virtproxy {
namespace {

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

class Sockets {
 public:
  Sockets() {
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends_), 0);
    const int room = 4 << 20;
    setsockopt(ends_[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
  }
  ~Sockets() {
    close(ends_[0]);
    close(ends_[1]);
  }
  Sockets(const Sockets&) = delete;
  Sockets& operator=(const Sockets&) = delete;

  int in() const { return ends_[0]; }
  int out() const { return ends_[1]; }
  void write(const std::string& text) {
    ASSERT_EQ(send(ends_[0], text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }
  std::string read() {
    std::string all;
    char piece[65536];
    for (ssize_t got; (got = recv(ends_[1], piece, sizeof piece, 0)) > 0;) {
      all.append(piece, static_cast<size_t>(got));
    }
    return all;
  }

 private:
  int ends_[2];
};

class SendQueueTest : public testing::Test {
 protected:
  ~SendQueueTest() override {
    send_queue_.clear();
    EXPECT_EQ(pool_.in_use(), 0u);
  }

  // What its first part, or up to `pieces` chunks of it, brings to the application.
  std::string send_part(size_t pieces = 64) {
    if (send_queue_.begins_with_pipe()) {
      EXPECT_GT(send_queue_.splice_to(application_.in()), 0);
      return application_.read();
    }
    std::vector<iovec> vectors(pieces);
    vectors.resize(send_queue_.front(vectors));
    std::string sent;
    for (const iovec& vector : vectors) {
      sent.append(static_cast<const char*>(vector.iov_base), vector.iov_len);
    }
    send_queue_.consume(sent.size());
    return sent;
  }

  PipePool pool_{PipePool::kMost * 128 * kPinnedBySlot};
  uint64_t total_ = 0;
  SendQueue send_queue_{pool_, total_};
  Sockets channel_;
  Sockets application_;
};

TEST_F(SendQueueTest, KeepsBytesAndPipesInOrder) {
  send_queue_.append(as_bytes("one "));
  channel_.write("two three ");
  EXPECT_EQ(send_queue_.splice_from(channel_.out(), 4), 4);
  EXPECT_TRUE(send_queue_.ends_in_pipe());
  EXPECT_EQ(send_queue_.splice_from(channel_.out(), 100), 6);
  send_queue_.append(as_bytes("four "));
  send_queue_.append(as_bytes("five"));
  EXPECT_EQ(send_queue_.size(), 23u);
  EXPECT_EQ(total_, send_queue_.size());
  EXPECT_EQ(pool_.in_use(), 1u);

  EXPECT_FALSE(send_queue_.begins_with_pipe());
  EXPECT_EQ(send_part(), "one ");
  EXPECT_TRUE(send_queue_.begins_with_pipe());
  EXPECT_EQ(send_part(), "two three ");
  EXPECT_EQ(pool_.in_use(), 0u);
  EXPECT_EQ(send_part(), "four five");
  EXPECT_TRUE(send_queue_.empty());
  EXPECT_EQ(send_queue_.size(), 0u);
  EXPECT_EQ(total_, send_queue_.size());
}

TEST_F(SendQueueTest, SaysWhyNothingWasSpliced) {
  EXPECT_EQ(send_queue_.splice_from(channel_.out(), 1), -EAGAIN);
  EXPECT_TRUE(send_queue_.empty());
  EXPECT_EQ(pool_.in_use(), 0u);
  channel_.write("x");
  EXPECT_EQ(send_queue_.splice_from(channel_.out(), 1), 1);
  EXPECT_EQ(send_queue_.splice_from(channel_.out(), 1), -EAGAIN);
  EXPECT_EQ(send_queue_.size(), 1u);
  EXPECT_EQ(total_, send_queue_.size());
  shutdown(channel_.in(), SHUT_WR);
  EXPECT_EQ(send_queue_.splice_from(channel_.out(), 1), 0);
}

TEST_F(SendQueueTest, TakesAnotherPipeWhenOneIsFullAndThenNoMore) {
  // Each message fills a slot of a pipe, however small it is.
  std::string expected;
  ssize_t moved = 0;
  for (char next = 'a'; moved >= 0; next = next == 'z' ? 'a' : static_cast<char>(next + 1)) {
    channel_.write(std::string(1, next));
    moved = send_queue_.splice_from(channel_.out(), 1);
    if (moved > 0) expected += next;
    ASSERT_LT(expected.size(), 10'000u);
  }
  EXPECT_EQ(moved, -ENOBUFS);
  EXPECT_EQ(pool_.in_use(), 4u);
  EXPECT_EQ(send_queue_.size(), expected.size());
  EXPECT_EQ(total_, send_queue_.size());
  std::string got;
  while (!send_queue_.empty()) got += send_part();
  EXPECT_EQ(got, expected);
}

TEST_F(SendQueueTest, DoesWithoutPipesWhereThereAreNone) {
  std::vector<Pipe*> taken;
  while (Pipe* pipe = pool_.take()) taken.push_back(pipe);
  channel_.write("x");
  EXPECT_EQ(send_queue_.splice_from(channel_.out(), 1), -ENOBUFS);
  for (Pipe* pipe : taken) pool_.release(pipe);
}

TEST_F(SendQueueTest, LosesAndReordersNothingUnderRandomOperations) {
  std::mt19937 draw(20101123);
  std::string expected;
  std::string got;
  for (int step = 0; step < 20'000; ++step) {
    std::string text(1 + draw() % (draw() % 8 == 0 ? 100'000 : 100), '\0');
    for (char& c : text) c = static_cast<char>(draw());
    switch (draw() % 4) {
      case 0:
        if (send_queue_.size() > 1 << 20) break;
        send_queue_.append(as_bytes(text));
        expected += text;
        break;
      case 1: {
        if (send_queue_.size() > 1 << 20) break;
        channel_.write(text);
        const ssize_t moved = send_queue_.splice_from(channel_.out(), 1 + draw() % text.size());
        if (moved > 0) expected += text.substr(0, static_cast<size_t>(moved));
        channel_.read();
        break;
      }
      default:
        if (!send_queue_.empty()) got += send_part(1 + draw() % 3);
    }
    ASSERT_EQ(send_queue_.size(), expected.size() - got.size());
    if (got.size() > 4 << 20) {
      ASSERT_EQ(expected.substr(0, got.size()), got);
      expected.erase(0, got.size());
      got.clear();
    }
  }
  while (!send_queue_.empty()) got += send_part();
  EXPECT_EQ(got, expected);
}

}  // namespace
}  // namespace virtproxy
