// What an application sent, from its arrival until the other end needs it no more.
#include "uring/buffers/outbound_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "uring/io/open_driver.h"

namespace virtproxy {
namespace {

// Without provided buffers: the driver has none of the pool.
class OutboundQueueTest : public testing::Test {
 protected:
  void SetUp() override {
    DriverFeatures features;
    features.provided_buffers = false;
    auto opened = open_driver(DriverChoice::kEpoll, 64, features);
    ASSERT_TRUE(opened) << opened.error();
    driver_ = std::move(opened->driver);
    pool_ = std::make_unique<ReceivePool>(*driver_, 1 << 20, 0);
    queue_ = std::make_unique<OutboundQueue>(*pool_, pipes_);
  }
  void TearDown() override {
    queue_.reset();
    EXPECT_EQ(pool_->in_use(), 0U);
    EXPECT_EQ(pipes_.in_use(), 0U);
  }

  // A pipe with that many bytes in it, and with the one reference that push() takes over.
  Pipe* pipe_of(const std::string& text) {
    Pipe* const pipe = pipes_.take();
    std::string bytes = text;
    const iovec vector{bytes.data(), bytes.size()};
    EXPECT_EQ(pipe->write({&vector, 1}), static_cast<ssize_t>(text.size()));
    return pipe;
  }
  void push(const std::string& text) {
    Buffer* const buffer = pool_->take(BufferSize::kSmall);
    ASSERT_NE(buffer, nullptr);
    std::memcpy(buffer->data + buffer->begin, text.data(), text.size());
    buffer->end += static_cast<uint32_t>(text.size());
    queue_->push(buffer);
  }
  // Takes, gives the reference back as a writer does, and returns the text.
  std::string take(uint32_t bytes) {
    const OutSegment segment = queue_->take(bytes);
    EXPECT_NE(segment.buffer, nullptr);
    std::string text(reinterpret_cast<const char*>(segment.bytes.data()), segment.bytes.size());
    pool_->release(segment.buffer);
    return text;
  }
  void expect_at(uint64_t acked, uint64_t sent, uint64_t queued) {
    EXPECT_EQ(queue_->acked(), acked);
    EXPECT_EQ(queue_->sent(), sent);
    EXPECT_EQ(queue_->queued(), queued);
  }

  std::unique_ptr<Driver> driver_;
  std::unique_ptr<ReceivePool> pool_;
  PipePool pipes_{1 << 20};
  std::unique_ptr<OutboundQueue> queue_;
};

TEST_F(OutboundQueueTest, KeepsWhatIsNotAcknowledged) {
  push("abcd");
  push("efg");
  expect_at(0, 0, 7);
  EXPECT_EQ(take(3), "abc");
  EXPECT_EQ(take(100), "d") << "up to the end of a buffer";
  EXPECT_EQ(take(1), "e");
  expect_at(0, 5, 7);
  EXPECT_EQ(pool_->in_use(), 2U);
  queue_->ack(3);
  EXPECT_EQ(queue_->buffers(), 2U) << "the fourth byte is needed";
  queue_->ack(4);
  EXPECT_EQ(queue_->buffers(), 1U);
  EXPECT_EQ(pool_->in_use(), 1U);
  queue_->ack(4);
  push("h");
  EXPECT_EQ(take(9), "fg");
  EXPECT_EQ(take(9), "h");
  queue_->ack(8);
  expect_at(8, 8, 8);
  EXPECT_EQ(pool_->in_use(), 0U);
}

TEST_F(OutboundQueueTest, AWriterKeepsABufferThatIsAcknowledged) {
  push("abcd");
  const OutSegment segment = queue_->take(4);
  queue_->ack(4);
  EXPECT_EQ(queue_->buffers(), 0U);
  EXPECT_EQ(pool_->in_use(), 1U);
  // As much room as the buffer has, because nothing else points into it.
  EXPECT_EQ(ReceivePool::room_before(segment.buffer, segment.bytes),
            static_cast<size_t>(segment.bytes.data() - segment.buffer->data));
  pool_->release(segment.buffer);
  EXPECT_EQ(pool_->in_use(), 0U);
}

TEST_F(OutboundQueueTest, APipeComesLast) {
  push("ab");
  queue_->push(pipe_of("0123456789"), 10);
  expect_at(0, 0, 12);
  EXPECT_EQ(take(100), "ab") << "a segment is of one kind";
  for (const uint32_t bytes : {4U, 100U}) {
    const OutSegment segment = queue_->take(bytes);
    EXPECT_EQ(segment.buffer, nullptr);
    ASSERT_NE(segment.pipe, nullptr);
    EXPECT_EQ(segment.size(), bytes == 4 ? 4U : 6U);
    if (bytes == 4) queue_->ack(queue_->sent());
    EXPECT_TRUE(queue_->has_pipe());
    if (bytes != 4) queue_->ack(queue_->sent());
    // One that is given back with bytes in it would be closed: the writer empties it first.
    std::string sink(segment.size(), '\0');
    Pipe* const other = pipes_.take();
    EXPECT_EQ(segment.pipe->pour(*other, segment.size()), static_cast<ssize_t>(segment.size()));
    pipes_.release(other);
    pipes_.release(segment.pipe);
  }
  EXPECT_FALSE(queue_->has_pipe());
  EXPECT_EQ(pipes_.in_use(), 0U);
  push("c");
  EXPECT_EQ(take(1), "c");
}

TEST_F(OutboundQueueTest, ClearDropsAllButWhatAWriterHas) {
  push("abc");
  push("def");
  const OutSegment segment = queue_->take(2);
  queue_->push(pipe_of("xyz"), 3);
  queue_->clear();
  expect_at(9, 9, 9);
  EXPECT_EQ(queue_->buffers(), 0U);
  EXPECT_FALSE(queue_->has_pipe());
  EXPECT_EQ(pipes_.in_use(), 0U);
  EXPECT_EQ(pool_->in_use(), 1U);
  pool_->release(segment.buffer);
  push("g");
  EXPECT_EQ(take(1), "g");
}

// Against a string: any order of the three calls gives the same bytes, and holds no more buffers
// than those with a byte that is not acknowledged.
TEST_F(OutboundQueueTest, AgreesWithAString) {
  std::mt19937 random(7);
  const auto below = [&](uint64_t limit) { return limit == 0 ? 0 : random() % limit; };
  std::string all;
  std::string taken;
  std::vector<uint64_t> ends;  // of the buffers
  for (int step = 0; step < 20'000; ++step) {
    if (below(3) == 0 && queue_->buffers() < 8) {
      std::string text(1 + below(ReceivePool::kSmallBytes), '\0');
      for (char& c : text) c = static_cast<char>(random());
      push(text);
      all += text;
      ends.push_back(all.size());
    } else if (below(2) == 0 && queue_->sent() < queue_->queued()) {
      taken += take(static_cast<uint32_t>(1 + below(6000)));
    } else {
      queue_->ack(queue_->acked() + below(queue_->sent() - queue_->acked() + 1));
    }
    ASSERT_LE(queue_->acked(), queue_->sent());
    ASSERT_EQ(queue_->sent(), taken.size());
    ASSERT_EQ(queue_->queued(), all.size());
    const auto held = std::count_if(ends.begin(), ends.end(),
                                    [&](uint64_t end) { return end > queue_->acked(); });
    ASSERT_EQ(queue_->buffers(), static_cast<uint32_t>(held));
    std::erase_if(ends, [&](uint64_t end) { return end <= queue_->acked(); });
  }
  EXPECT_GT(taken.size(), 1U << 20);
  EXPECT_TRUE(all.starts_with(taken));
}

}  // namespace
}  // namespace virtproxy
