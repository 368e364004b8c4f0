// Parcels through the spool of a collecting daemon, over restarts and damage.
#include "uring/service/logs/parcel_spool.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "tests/unit/driver_fixture.h"
#include "tests/unit/temporary_folder.h"

namespace virtproxy {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kSize = uint64_t{8} << 20;

// Parcels of the logs of a VM, each of which goes on where the one before ended.
class Sender {
 public:
  explicit Sender(std::string vm) : vm_(std::move(vm)) {
    account_.id = {vm_.size(), 7};
    for (const char* const name : {"dev-log", "other"}) {
      account_.sources.emplace_back().name = name;
    }
  }
  std::shared_ptr<Parcel> lines(const std::vector<std::string>& texts, uint16_t source = 0) {
    auto parcel = std::make_shared<Parcel>();
    logs::SourceAccount& of = account_.sources[source];
    for (const std::string& text : texts) {
      ParcelRecord& record = parcel->records.emplace_back();
      record.source = source;
      record.offset = static_cast<uint32_t>(parcel->text.size());
      record.size = static_cast<uint32_t>(text.size());
      record.seq = of.next.seq++;
      record.bytes = text.size();
      record.time = record.last_time = 1'700'000'000'000'000'000 + record.seq;
      of.next.bytes += text.size();
      of.delivered.add(1, text.size());
      parcel->text += text;
    }
    account_.position += 100;
    parcel->account = account_;
    parcel->received = 1'700'000'000'000'000'000;
    return parcel;
  }
  const std::string& vm() const { return vm_; }
  const logs::LogAccount& account() const { return account_; }

 private:
  std::string vm_;
  logs::LogAccount account_;
};

std::string record_of(const Parcel& parcel, const ParcelRecord& record) {
  if (record.kind == ParcelRecord::Kind::kDrop) {
    return std::string(logs::name_of(record.reason)) + " " + std::to_string(record.count) + " " +
           std::to_string(record.bytes);
  }
  return std::string(parcel.text_of(record));
}

TEST(ParcelCodecTest, AParcelIsWhatItWas) {
  Sender sender("vm1");
  auto parcel = sender.lines({"one", "", std::string("\0\n\xff", 3)});
  ParcelRecord& drop = parcel->records.emplace_back();
  drop.kind = ParcelRecord::Kind::kDrop;
  drop.reason = logs::DropReason::kRate;
  drop.source = 1;
  drop.seq = 5;
  drop.count = 70'000;
  drop.bytes = uint64_t{1} << 40;
  drop.time = 100;
  drop.last_time = 90;
  parcel->records[0].has_credentials = true;
  parcel->records[0].credentials = {1, 4294967295u, 3};
  parcel->forgotten = {1, 2};
  const std::string bytes = encode_parcel(*parcel, "vm1");
  const auto decoded = decode_parcel(bytes);
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->vm, "vm1");
  EXPECT_EQ(decoded->parcel->account, parcel->account);
  EXPECT_EQ(decoded->parcel->text, parcel->text);
  EXPECT_EQ(decoded->parcel->forgotten, parcel->forgotten);
  EXPECT_EQ(encode_parcel(*decoded->parcel, "vm1"), bytes);
  EXPECT_EQ(decoded->parcel->records[0].credentials, parcel->records[0].credentials);
  EXPECT_EQ(decoded->parcel->records[3].last_time, 90u);
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(decode_parcel(std::string_view(bytes).substr(0, size))) << size;
  }
}

class ParcelSpoolTest : public testing::TestWithParam<DriverChoice> {
 protected:
  void SetUp() override {
    auto driver = open_driver(GetParam(), 64, {});
    if (!driver) GTEST_SKIP() << driver.error();
    loop_ = std::make_unique<Loop>(std::move(driver->driver));
    open();
  }
  void TearDown() override {
    if (spool_) close();
  }
  void open() {
    auto spool = ParcelSpool::open({folder_ / "spool", kSize, sync_}, made_);
    ASSERT_TRUE(spool) << spool.error();
    spool_ = *std::move(spool);
    spool_->start(*loop_, [] {});
  }
  // As an end of the process that nobody was told of, unless it is finished first.
  void close() {
    spool_->stop();
    ASSERT_TRUE(run([&] { return spool_->idle(); }));
    spool_->end();
    spool_.reset();
    // The ring lets go of the file, and so of its lock, in one of its next turns. Another process
    // would wait for that in open(), which keeps this thread's ring from turning.
    const int probe = ::open((folder_ / "spool").c_str(), O_RDWR | O_CLOEXEC);
    EXPECT_TRUE(run([&] { return flock(probe, LOCK_EX | LOCK_NB) == 0; }));
    ::close(probe);
  }
  void put(Sender& sender, std::shared_ptr<Parcel> parcel) {
    ASSERT_TRUE(run([&] {
      spool_->work();
      (void)spool_->take_stored();
      return spool_->has_room();
    }));
    spool_->put(std::move(parcel), sender.vm());
    spool_->work();
  }
  void damage(const std::vector<std::string>& texts) {
    std::fstream file(folder_ / "spool", std::ios::in | std::ios::out | std::ios::binary);
    std::string bytes(kSize, '\0');
    file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    file.clear();
    for (const std::string& text : texts) {
      const size_t at = bytes.find(text);
      ASSERT_NE(at, std::string::npos);
      file.seekp(static_cast<std::streamoff>(at)).put('!');
    }
  }
  // Until so many are stored.
  void store(size_t count) {
    size_t stored = 0;
    EXPECT_TRUE(run([&] {
      spool_->work();
      stored += spool_->take_stored().size();
      return stored >= count;
    }));
  }
  // The records of so many parcels, which are released.
  std::vector<std::string> read(size_t parcels, std::string vm = "vm1") {
    std::vector<std::string> records;
    EXPECT_TRUE(run([&] {
      spool_->work();
      while (parcels > 0) {
        const auto found = spool_->next();
        if (!found) break;
        EXPECT_EQ(found->vm, vm);
        for (const ParcelRecord& record : found->parcel->records) {
          records.push_back(record_of(*found->parcel, record));
        }
        spool_->release();
        --parcels;
      }
      return parcels == 0;
    }));
    return records;
  }
  bool run(const std::function<bool()>& done) {
    const Instant limit = in(std::chrono::seconds(30));
    while (!done()) {
      if (in({}) > limit) return false;
      loop_->hurry();
      if (loop_->turn() != 0) return false;
    }
    return true;
  }

  const TemporaryFolder folder_;
  MadeFiles made_;
  logs::SyncPolicy sync_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<ParcelSpool> spool_;
};

TEST_P(ParcelSpoolTest, WhatIsStoredIsThereAfterARestartAndWhatIsReleasedIsNot) {
  Sender sender("vm1");
  put(sender, sender.lines({"a", "b"}));
  put(sender, sender.lines({"c"}));
  store(2);
  EXPECT_EQ(read(1), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(spool_->take_stored().empty());  // commits how far it is released
  close();
  open();
  EXPECT_EQ(spool_->accounts().at("vm1"), std::vector{sender.account()});
  put(sender, sender.lines({"d"}));
  EXPECT_EQ(read(2), (std::vector<std::string>{"c", "d"}));
}

// The process ended between the write of a parcel and that of its account.
TEST_P(ParcelSpoolTest, WhatTheAccountsLackIsFoundInTheSpool) {
  Sender sender("vm1");
  put(sender, sender.lines({"a"}));
  store(1);
  const fs::path state = folder_ / "spool.state";
  fs::copy_file(state, folder_ / "old");
  put(sender, sender.lines({"b"}));
  put(sender, sender.lines({std::string(300'000, 'x')}));
  store(2);
  close();
  fs::copy_file(folder_ / "old", state, fs::copy_options::overwrite_existing);
  open();
  EXPECT_EQ(spool_->accounts().at("vm1"), std::vector{sender.account()});
  EXPECT_EQ(read(3), (std::vector<std::string>{"a", "b", std::string(300'000, 'x')}));
}

TEST_P(ParcelSpoolTest, AFullSpoolTakesNothingUntilSomethingIsReleased) {
  Sender sender("vm1");
  const std::string text(200'000, 'x');
  size_t given = 0;
  bool full = false;
  while (!full) {
    ASSERT_LT(given, 50u);
    spool_->put(sender.lines({std::to_string(given) + text}), sender.vm());
    ++given;
    // Full: everything that had room is written.
    ASSERT_TRUE(run([&] {
      spool_->work();
      (void)spool_->take_stored();
      return spool_->has_room() || spool_->counters().unwritten == 0;
    }));
    full = !spool_->has_room();
  }
  EXPECT_GT(given, 25u);
  EXPECT_EQ(fs::file_size(folder_ / "spool"), spool_->file_size());
  size_t read_back = 0;
  while (read_back < given) {
    const auto records = read(1);
    ASSERT_EQ(records.size(), 1u);
    EXPECT_EQ(records[0], std::to_string(read_back++) + text);
  }
  EXPECT_TRUE(spool_->has_room());
  // And it goes round.
  for (int i = 0; i < 100; ++i) {
    put(sender, sender.lines({std::to_string(i) + text}));
    EXPECT_EQ(read(1), std::vector{std::to_string(i) + text});
  }
}

TEST_P(ParcelSpoolTest, LinesInADamagedPartAreCounted) {
  Sender sender("vm1");
  put(sender, sender.lines({"a"}));
  put(sender, sender.lines({"b"}));
  store(2);
  EXPECT_EQ(read(1), std::vector<std::string>{"a"});
  put(sender, sender.lines({"damage me", "me too"}, 1));
  put(sender, sender.lines({std::string(100'000, 'y')}));
  put(sender, sender.lines({"c"}));
  put(sender, sender.lines({"d"}, 1));
  // So much that the spool has nothing of what comes before it in memory any more.
  put(sender, sender.lines({std::string(logs::SpoolConfig{}.recent, 'z')}));
  store(5);
  damage({"damage me", "yyyyyyyyy"});
  EXPECT_EQ(read(3), (std::vector<std::string>{"b", "corrupt 2 15", "corrupt 1 100000", "c", "d"}));
  EXPECT_EQ(spool_->counters().lost_lines, 3u);
}

// What was lost lies between what the sinks had and the first parcel that can be read.
TEST_P(ParcelSpoolTest, DamageBeforeTheFirstParcelIsCountedAfterARestart) {
  Sender sender("vm1");
  put(sender, sender.lines({"a"}));
  store(1);
  EXPECT_EQ(read(1), std::vector<std::string>{"a"});
  EXPECT_TRUE(spool_->take_stored().empty());
  const logs::LogAccount delivered = sender.account();
  put(sender, sender.lines({"damage me", "me too"}));
  put(sender, sender.lines({"c"}));
  put(sender, sender.lines({"and me"}));
  put(sender, sender.lines({"d"}));
  store(4);
  damage({"damage me", "and me"});
  close();
  open();
  spool_->expect_after("vm1", {delivered});
  EXPECT_EQ(spool_->counters().lost_lines, 0u);
  EXPECT_EQ(read(2), (std::vector<std::string>{"corrupt 2 15", "c", "corrupt 1 6", "d"}));
  EXPECT_EQ(spool_->counters().lost_lines, 3u);
}

// As after an end of the machine that took what was not on the disk yet, but left the accounts.
TEST_P(ParcelSpoolTest, WhatComesAfterASpoolThatIsShorterThanItsAccountsIsDelivered) {
  Sender sender("vm1");
  for (int i = 0; i < 3; ++i) {
    put(sender, sender.lines({std::string(1 << 20, 'x')}));
    store(1);
    EXPECT_EQ(read(1).size(), 1u);
  }
  put(sender, sender.lines({"known"}));
  store(1);
  EXPECT_EQ(read(1), std::vector<std::string>{"known"});
  (void)spool_->take_stored();
  close();
  {
    std::fstream file(folder_ / "spool", std::ios::in | std::ios::out | std::ios::binary);
    const std::string zeros(fs::file_size(folder_ / "spool"), '\0');
    file.write(zeros.data(), static_cast<std::streamsize>(zeros.size()));
  }
  open();
  put(sender, sender.lines({"new"}));
  store(1);
  EXPECT_EQ(read(1), std::vector<std::string>{"new"});
}

TEST_P(ParcelSpoolTest, LogsOfEarlierRunsAreLeftBehindAndFreed) {
  Sender sender("vm1");
  for (int start = 0; start < 40; ++start) {
    put(sender, sender.lines({std::to_string(start)}));
    store(1);
    if (start % 4 == 3) {
      read(4);
      EXPECT_TRUE(spool_->take_stored().empty());
    }
    close();
    open();
  }
  EXPECT_EQ(spool_->counters().lost, 0u);
}

INSTANTIATE_TEST_SUITE_P(Drivers, ParcelSpoolTest,
                         testing::Values(DriverChoice::kIoUring, DriverChoice::kEpoll),
                         [](const auto& each) {
                           return each.param == DriverChoice::kEpoll ? "Epoll" : "IoUring";
                         });

}  // namespace
}  // namespace virtproxy
