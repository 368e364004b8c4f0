// Batches that a spool still has in memory: a reader that is close behind the writer gets the same
// as one that reads the file, and reads nothing.
#include <gtest/gtest.h>

#include "core/logs/spool_reader.h"
#include "tests/unit/core/log_spool_image.h"

namespace virtproxy::logs::test {
namespace {

constexpr uint32_t kSegmentBytes = 64u << 10;
constexpr LogId kRecentLog{11, 12};
constexpr size_t kLineSize = 1000;

struct Stored {
  uint64_t position;
  Mark end;
};

class RecentTest : public testing::Test {
 protected:
  explicit RecentTest(size_t recent = SpoolConfig{}.recent)
      : geometry_(*spool_geometry(kSuperblockArea + 4 * kSegmentBytes, kSegmentBytes)),
        image_(geometry_.file_size()),
        spool_({geometry_, SpoolConfig::Full::kRefuse, 1u << 20, recent},
               *recover(image_, geometry_), kRecentLog, kBoot, {"a"}) {}

  void append() {
    BatchBuilder builder(0, mark_);
    builder.add_line({1, {}, Bytes(kLineSize, static_cast<std::byte>(mark_.seq))});
    PendingBatch batch{0, mark_, builder.mark(), builder.finish()};
    const size_t size = batch.bytes.size();
    ASSERT_TRUE(spool_.append(batch, 1));
    mark_ = batch.end;
    stored_.push_back({spool_.appended_position() - size, mark_});
  }
  void write_all() {
    while (const auto write = spool_.next_write()) {
      ++writes_;
      std::copy(write->bytes.begin(), write->bytes.end(),
                image_.begin() + static_cast<ptrdiff_t>(write->offset));
      spool_.written(write->bytes.size());
    }
  }
  // The batches of the spool from its first segment on, and how many of them were read from the
  // file.
  size_t read_all(SpoolReader& reader) {
    reader.seek(spool_.tail() * kSegmentBytes);
    size_t reads = 0;
    size_t next = 0;
    for (;;) {
      switch (reader.step()) {
        case SpoolReader::Step::kRead: {
          const SpoolRead wanted = reader.next_read();
          if (wanted.size != kSegmentHeaderSize) ++reads;
          reader.read(std::span(image_).subspan(wanted.offset, wanted.size));
          break;
        }
        case SpoolReader::Step::kWait:
          EXPECT_EQ(next, stored_.size());
          return reads;
        case SpoolReader::Step::kSegment:
          break;
        case SpoolReader::Step::kBatch: {
          if (next == stored_.size()) ADD_FAILURE() << "more batches than were stored";
          if (next == stored_.size()) return reads;
          const Stored& stored = stored_[next++];
          EXPECT_EQ(reader.header().position, stored.position);
          EXPECT_EQ(reader.end(), stored.end);
          const auto of_file = std::span(image_).subspan(geometry_.offset_of(stored.position),
                                                         reader.batch().size());
          EXPECT_TRUE(std::equal(of_file.begin(), of_file.end(), reader.batch().begin(),
                                 reader.batch().end()));
          break;
        }
      }
    }
  }

  SpoolGeometry geometry_;
  Bytes image_;
  Spool spool_;
  Mark mark_;
  std::vector<Stored> stored_;
  size_t writes_ = 0;
};

TEST_F(RecentTest, WhatIsInMemoryIsNotRead) {
  for (int i = 0; i < 20; ++i) append();
  write_all();
  // A superblock, a segment's header, and all batches.
  EXPECT_EQ(writes_, 3u) << "small batches are written together";
  SpoolReader reader(spool_);
  EXPECT_EQ(read_all(reader), 0u);
}

TEST_F(RecentTest, WhatWasPassedIsReadAgainFromTheFile) {
  for (int i = 0; i < 20; ++i) append();
  write_all();
  SpoolReader reader(spool_);
  EXPECT_EQ(read_all(reader), 0u);
  spool_.passed(reader.position());
  for (const Stored& stored : stored_) EXPECT_FALSE(spool_.recent(stored.position));
  append();
  write_all();
  // The first of the stream that follows reads from the file up to what is in memory.
  EXPECT_GT(read_all(reader), 0u);
  EXPECT_TRUE(spool_.recent(stored_.back().position));
}

TEST_F(RecentTest, WhatIsNotWrittenIsNotGiven) {
  append();
  EXPECT_FALSE(spool_.recent(stored_[0].position));
  // The superblock and the header, and half of the batch.
  for (int i = 0; i < 2; ++i) spool_.written(spool_.next_write()->bytes.size());
  const size_t size = spool_.next_write()->bytes.size();
  spool_.written(size / 2);
  EXPECT_FALSE(spool_.recent(stored_[0].position));
  spool_.written(spool_.next_write()->bytes.size());
  ASSERT_TRUE(spool_.recent(stored_[0].position));
  EXPECT_EQ(spool_.recent(stored_[0].position)->bytes.size(), size);
  EXPECT_FALSE(spool_.recent(stored_[0].position + 1)) << "no batch begins there";
  EXPECT_FALSE(spool_.recent(stored_[0].position + size));
}

class SmallRecentTest : public RecentTest {
 protected:
  SmallRecentTest() : RecentTest(8 * kLineSize) {}
};

TEST_F(SmallRecentTest, TheOldestLeaveTheMemoryFirst) {
  for (int i = 0; i < 20; ++i) {
    append();
    write_all();
  }
  EXPECT_FALSE(spool_.recent(stored_.front().position));
  EXPECT_TRUE(spool_.recent(stored_.back().position));
  size_t held = 0;
  for (const Stored& stored : stored_) held += spool_.recent(stored.position) ? 1 : 0;
  EXPECT_GE(held, 4u);
  EXPECT_LE(held * kLineSize, 8 * kLineSize);
  SpoolReader reader(spool_);
  EXPECT_GT(read_all(reader), 0u);
}

}  // namespace
}  // namespace virtproxy::logs::test
