// The accounts of logs over a restart, and over a write that was cut off.
#include "uring/service/logs/account_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/unit/temporary_folder.h"

namespace virtproxy {
namespace {

namespace fs = std::filesystem;

class AccountFileTest : public testing::Test {
 protected:
  AccountFile open() {
    auto file = AccountFile::open(path_, made_);
    EXPECT_TRUE(file) << file.error();
    return *std::move(file);
  }
  static AccountFile::Change change(const std::string& vm, uint64_t log, uint64_t seq) {
    AccountFile::Change change{vm, {}};
    change.account.id = {log, ~log};
    change.account.position = seq * 100;
    logs::SourceAccount& source = change.account.sources.emplace_back();
    source.name = "dev-log";
    source.next = source.known = {seq, seq * 10};
    source.delivered = {seq, seq * 10};
    return change;
  }

  const TemporaryFolder folder_;
  MadeFiles made_;
  const std::string path_ = folder_ / "state";
};

TEST_F(AccountFileTest, WhatWasCommittedIsThereAgain) {
  {
    AccountFile file = open();
    EXPECT_TRUE(file.fresh());
    EXPECT_TRUE(file.commit({10, 1, 2, 3}, {change("vm1", 1, 5), change("vm2", 7, 1)}));
    EXPECT_TRUE(file.commit({20, 1, 2, 3}, {change("vm1", 1, 6)}));
    EXPECT_FALSE(AccountFile::open(path_, made_)) << "two processes would write to one file";
  }
  AccountFile file = open();
  EXPECT_FALSE(file.fresh());
  EXPECT_EQ(file.note(), (SinkNote{20, 1, 2, 3}));
  ASSERT_EQ(file.accounts().size(), 2u);
  EXPECT_EQ(file.accounts().at("vm1"), std::vector{change("vm1", 1, 6).account});
  EXPECT_EQ(file.accounts().at("vm2"), std::vector{change("vm2", 7, 1).account});
}

TEST_F(AccountFileTest, TheLogsUsedLastAreKept) {
  AccountFile file = open();
  for (uint64_t log = 1; log <= 1000; ++log) {
    EXPECT_TRUE(file.commit({}, {change("vm1", log, 1), change("vm1", 1, log)}));
  }
  const auto& logs = file.accounts().at("vm1");
  ASSERT_EQ(logs.size(), AccountFile::kLogs);
  EXPECT_EQ(logs.back().id.low, 1u);
  EXPECT_EQ(logs.front().id.low, 1000u - (AccountFile::kLogs - 2));
}

// Both slots are used in turn, and the file does not grow with the number of commits.
TEST_F(AccountFileTest, ManyCommitsTakeBoundedRoom) {
  uint64_t last = 0;
  {
    AccountFile file = open();
    for (; last < 12'000; ++last) ASSERT_TRUE(file.commit({last}, {change("vm1", 1, last)}));
  }
  uint64_t blocks = 0;
  struct stat status {};
  ASSERT_EQ(stat(path_.c_str(), &status), 0);
  blocks = static_cast<uint64_t>(status.st_blocks) * 512;
  EXPECT_LT(blocks, uint64_t{4} << 20);
  EXPECT_GT(status.st_size, off_t{256} << 20) << "the second slot was used";
  AccountFile file = open();
  EXPECT_EQ(file.note().offset, last - 1);
  EXPECT_EQ(file.accounts().at("vm1")[0].position, (last - 1) * 100);
}

// The last commit cut off, and changed, at one byte in five: the one before holds.
TEST_F(AccountFileTest, ACommitIsCompleteOrHasNotHappened) {
  uintmax_t before = 0;
  {
    AccountFile file = open();
    ASSERT_TRUE(file.commit({1}, {change("vm1", 1, 1)}));
    ASSERT_TRUE(file.commit({2}, {change("vm1", 1, 2)}));
    before = fs::file_size(path_);
    ASSERT_TRUE(file.commit({3}, {change("vm1", 1, 3)}));
  }
  std::ifstream in(path_, std::ios::binary);
  const std::string whole(std::istreambuf_iterator<char>(in), {});
  ASSERT_GT(whole.size(), before);
  const auto write = [&](const std::string& bytes) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << bytes;
  };
  for (size_t size = before; size < whole.size(); size += 5) {
    write(whole.substr(0, size));
    ASSERT_EQ(open().note().offset, 2u) << size;
    std::string changed = whole;
    changed[size] = static_cast<char>(changed[size] ^ 0x40);
    write(changed);
    {
      AccountFile file = open();
      ASSERT_EQ(file.note().offset, 2u) << size;
      ASSERT_EQ(file.accounts().at("vm1")[0].position, 200u);
      ASSERT_TRUE(file.commit({9}, {change("vm1", 1, 9)}));
    }
    // What was cut off does not come back behind what is written next.
    AccountFile file = open();
    ASSERT_EQ(file.note().offset, 9u);
    ASSERT_EQ(file.accounts().at("vm1")[0].position, 900u);
  }
  write(whole);
  EXPECT_EQ(open().note().offset, 3u);
}

TEST_F(AccountFileTest, AFileOfSomethingElseIsNotTouched) {
  std::ofstream(path_) << "precious";
  const auto file = AccountFile::open(path_, made_);
  ASSERT_FALSE(file);
  EXPECT_NE(file.error().find("holds no accounts"), std::string::npos) << file.error();
  EXPECT_EQ(fs::file_size(path_), 8u);
  EXPECT_FALSE(AccountFile::open(folder_.path(), made_)) << "a directory";
}

}  // namespace
}  // namespace virtproxy
