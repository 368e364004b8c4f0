#include "core/flow/scheduler.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "core/v2/stream.h"

namespace virtproxy {
namespace {

constexpr uint32_t kQuantum = 65536;
constexpr uint32_t kOverhead = 24;

class SchedulerTest : public testing::Test {
 protected:
  struct Sender {
    SlabKey key;
    uint64_t queued = 0;
    uint64_t sent = 0;
    uint32_t most_frame = 65536;
    uint64_t refill = 0;  // whenever it has nothing left
  };

  size_t add(Priority priority, uint64_t queued, uint32_t most_frame = 65536, uint64_t refill = 0) {
    Stream stream;
    stream.priority = priority;
    senders_.push_back({streams_.insert(stream), 0, 0, most_frame, refill});
    queue(senders_.size() - 1, queued);
    return senders_.size() - 1;
  }

  void queue(size_t i, uint64_t bytes) {
    senders_[i].queued += bytes;
    if (bytes > 0) scheduler_.add(streams_, senders_[i].key.slot);
  }

  // Returns the order in which senders had their turns.
  std::vector<size_t> batch(uint64_t bytes) {
    std::vector<size_t> order;
    scheduler_.begin(bytes);
    for (;;) {
      const Scheduler<Stream>::Turn turn = scheduler_.next(streams_);
      if (turn.slot == IndexLink::kNone) break;
      const size_t i = index_of(turn.slot);
      Sender& s = senders_[i];
      const uint32_t size =
          static_cast<uint32_t>(std::min<uint64_t>({turn.bytes, s.queued, s.most_frame}));
      EXPECT_GT(size, 0u);
      s.queued -= size;
      s.sent += size;
      scheduler_.sent(streams_, turn.slot, size, kOverhead, s.queued > 0);
      order.push_back(i);
    }
    for (size_t i = 0; i < senders_.size(); ++i) {
      if (senders_[i].queued == 0 && senders_[i].refill > 0) queue(i, senders_[i].refill);
    }
    return order;
  }

  size_t index_of(uint32_t slot) const {
    for (size_t i = 0; i < senders_.size(); ++i) {
      if (senders_[i].key.slot == slot) return i;
    }
    ADD_FAILURE();
    return 0;
  }

  Slab<Stream> streams_;
  Scheduler<Stream> scheduler_{kQuantum};
  std::vector<Sender> senders_;
};

TEST_F(SchedulerTest, StreamsShareByBytesWhateverTheSizeOfTheirFrames) {
  const size_t tiny = add(Priority::kNormal, 1 << 30, 64);
  const size_t small = add(Priority::kNormal, 1 << 30, 1500);
  const size_t large = add(Priority::kNormal, 1 << 30, 65536);
  for (int i = 0; i < 100; ++i) batch(256 * 1024);
  const uint64_t least =
      std::min({senders_[tiny].sent, senders_[small].sent, senders_[large].sent});
  const uint64_t most = std::max({senders_[tiny].sent, senders_[small].sent, senders_[large].sent});
  EXPECT_LE(most - least, 2 * kQuantum);
}

TEST_F(SchedulerTest, FreshMessageGoesBeforeBulk) {
  for (int i = 0; i < 50; ++i) add(Priority::kNormal, 1 << 30);
  for (int i = 0; i < 30; ++i) batch(256 * 1024);
  const size_t message = add(Priority::kNormal, 100);
  EXPECT_EQ(batch(256 * 1024).front(), message);
}

TEST_F(SchedulerTest, EchoStreamStaysFreshThroughThousandsOfMessages) {
  for (int i = 0; i < 20; ++i) add(Priority::kNormal, 1 << 30);
  for (int i = 0; i < 30; ++i) batch(256 * 1024);
  const size_t echo = add(Priority::kNormal, 0);
  for (int i = 0; i < 5000; ++i) {
    queue(echo, 64);
    ASSERT_EQ(batch(256 * 1024).front(), echo) << i;
  }
}

TEST_F(SchedulerTest, DrainingOftenWinsNoLargerShare) {
  const size_t drains = add(Priority::kNormal, kQuantum, 65536, kQuantum);
  for (int i = 0; i < 9; ++i) add(Priority::kNormal, 1 << 30);
  // Small batches: the queue of the first is refilled between any two of them.
  for (int i = 0; i < 8000; ++i) batch(32 * 1024);
  const uint64_t fair = 8000ull * 32 * 1024 / 10;
  EXPECT_LT(senders_[drains].sent, fair * 5 / 4);
  for (size_t i = 1; i < 10; ++i) EXPECT_GT(senders_[i].sent, fair * 3 / 4) << i;
}

TEST_F(SchedulerTest, InteractiveGoesFirstAndBulkStillMoves) {
  const size_t bulk = add(Priority::kBulk, 1 << 30);
  const size_t normal = add(Priority::kNormal, 1 << 30);
  const size_t interactive = add(Priority::kInteractive, 1 << 30);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(batch(256 * 1024).front(), interactive);
  const double all = 100.0 * 256 * 1024;
  EXPECT_NEAR(static_cast<double>(senders_[interactive].sent) / all, 0.75, 0.02);
  EXPECT_NEAR(static_cast<double>(senders_[normal].sent) / all, 0.1875, 0.02);
  EXPECT_NEAR(static_cast<double>(senders_[bulk].sent) / all, 0.0625, 0.02);
}

TEST_F(SchedulerTest, ClassAloneHasTheWholeBatch) {
  const size_t bulk = add(Priority::kBulk, 1 << 30);
  batch(1 << 20);
  EXPECT_GE(senders_[bulk].sent + 64 * kOverhead, 1u << 20);
}

TEST_F(SchedulerTest, ShareOfAClassThatFallsIdleGoesToTheOthers) {
  const size_t interactive = add(Priority::kInteractive, 1000);
  const size_t bulk = add(Priority::kBulk, 1 << 30);
  batch(1 << 20);
  EXPECT_EQ(senders_[interactive].sent, 1000u);
  EXPECT_GT(senders_[bulk].sent, (1u << 20) * 9 / 10);
}

TEST_F(SchedulerTest, FloodOfNewStreamsCannotStopOldOnes) {
  const size_t old = add(Priority::kNormal, 1 << 30);
  batch(256 * 1024);
  const uint64_t before = senders_[old].sent;
  for (int i = 0; i < 100; ++i) {
    for (int k = 0; k < 20; ++k) add(Priority::kNormal, kQuantum);
    batch(256 * 1024);
  }
  EXPECT_GT(senders_[old].sent - before, 100ull * 256 * 1024 / 5);
}

TEST_F(SchedulerTest, RemovedStreamHasNoTurn) {
  const size_t gone = add(Priority::kNormal, 1000);
  const size_t stays = add(Priority::kNormal, 1000);
  scheduler_.remove(streams_, senders_[gone].key.slot);
  EXPECT_EQ(batch(1 << 20), std::vector<size_t>{stays});
  EXPECT_TRUE(scheduler_.empty());
}

// Whatever happens: a batch is not exceeded by more than one header, no time is wasted while
// somebody waits, and every stream that waits is served within a bound.
TEST_F(SchedulerTest, RandomLoadIsServedWithinBounds) {
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    std::mt19937_64 random(seed);
    streams_ = {};
    senders_.clear();
    scheduler_ = Scheduler<Stream>(1 + static_cast<uint32_t>(random() % 100'000));
    for (int i = 0; i < 30; ++i) {
      add(static_cast<Priority>(random() % kPriorities), 0,
          1 + static_cast<uint32_t>(random() % 70'000));
    }
    std::vector<int> waited(senders_.size());
    for (int turn = 0; turn < 2000; ++turn) {
      for (size_t i = 0; i < senders_.size(); ++i) {
        if (random() % 8 == 0) queue(i, 1 + random() % (random() % 4 == 0 ? 500'000 : 500));
      }
      uint64_t before = 0;
      uint64_t waiting = 0;
      for (const Sender& s : senders_) {
        before += s.sent;
        waiting += s.queued;
      }
      const uint64_t bytes = 16 * 1024 + random() % (256 * 1024);
      const std::vector<size_t> order = batch(bytes);
      uint64_t sent = 0;
      for (const Sender& s : senders_) sent += s.sent;
      sent -= before;
      ASSERT_LE(sent, bytes);
      ASSERT_GE(sent + order.size() * kOverhead, std::min(bytes, waiting)) << "an idle channel";
      for (size_t i = 0; i < senders_.size(); ++i) {
        const bool served = std::find(order.begin(), order.end(), i) != order.end();
        waited[i] = served || senders_[i].queued == 0 ? 0 : waited[i] + 1;
        ASSERT_LT(waited[i], 30 * 100'000 / 1024) << "seed " << seed << " sender " << i;
      }
    }
  }
}

}  // namespace
}  // namespace virtproxy
