// The hub with a real sink and its file of accounts, in a thread of its own.
#include "uring/service/logs/log_hub.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "tests/unit/driver_fixture.h"
#include "tests/unit/temporary_folder.h"
#include "uring/service/logs/account_file.h"

namespace virtproxy {
namespace {

using logs::LogAccount;
using logs::Tally;

// For a datagram: more than the usual send buffer of a socket.
size_t too_large() {
  size_t usual = 0;
  std::ifstream("/proc/sys/net/core/wmem_default") >> usual;
  return std::max<size_t>(2 * usual, 1 << 20);
}

// What each sink has done with the records, in the order of the sinks.
struct SinkStats final : StatVisitor {
  void visit(const StatInfo& info, const StatSample& sample) override {
    if (info.name == "log_sink_records") safe.push_back(sample.value);
    if (info.name == "log_sink_rejected") refused.push_back(sample.value);
  }
  // By the sink that has done the fewest.
  uint64_t done() const {
    uint64_t least = UINT64_MAX;
    for (size_t i = 0; i < safe.size(); ++i) least = std::min(least, safe[i] + refused[i]);
    return least;
  }
  std::vector<uint64_t> safe;
  std::vector<uint64_t> refused;
};

// Over a driver of the choice: a datagram socket of the test as a sink, first of all by itself.
class LogHubTest : public testing::TestWithParam<DriverChoice> {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(replace_receiver());
    sinks_ = {datagrams()};
    start();
  }
  void TearDown() override {
    if (hub_) hub_->stop();
  }

  // Where the sink sends to. Of the one before, what was not read is lost.
  void replace_receiver() {
    fs::remove(folder_ / "sink");
    receiver_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, (folder_ / "sink").c_str(), sizeof address.sun_path - 1);
    ASSERT_EQ(bind(receiver_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  std::string datagrams() const {
    return "unix-dgram:" + (folder_ / "sink").string() + ",state=" + (folder_ / "state").string();
  }
  std::string file() const { return "file:" + (folder_ / "file").string(); }
  void start() {
    std::vector<SinkSpec> sinks;
    for (const std::string& text : sinks_) {
      const auto sink = parse_sink(text);
      ASSERT_TRUE(sink) << sink.error().what;
      sinks.push_back(*sink);
    }
    auto hub = LogHub::open(sinks, spool_, {"vm1"}, made_);
    ASSERT_TRUE(hub) << hub.error();
    hub_ = *std::move(hub);
    const auto started = hub_->start(GetParam(), {}).get();
    hub_->go();
    if (!started) GTEST_SKIP() << started.error();
    safe_ = 0;
  }
  void restart() {
    hub_->stop();
    hub_.reset();
    ASSERT_NO_FATAL_FAILURE(start());
  }

  // Lines behind those before, in a parcel, with the account of a receiver that knows of as many
  // refusals as the last call of told_of_refusals() said.
  void submit(const std::vector<std::string>& lines) {
    auto parcel = std::make_shared<Parcel>();
    for (const std::string& line : lines) {
      ParcelRecord& record = parcel->records.emplace_back();
      record.seq = account().next.seq++;
      record.bytes = record.size = static_cast<uint32_t>(line.size());
      record.offset = static_cast<uint32_t>(parcel->text.size());
      parcel->text += line;
      account().next.bytes += line.size();
      account().delivered.add(1, line.size());
    }
    log_.position += parcel->text.size();
    parcel->account = log_;
    parcel->reply = box_;
    safe_ += lines.size();
    hub_->submit(std::move(parcel));
  }
  void told_of_refusals(Tally more) { ASSERT_TRUE(account().reject(more)); }
  // Until all that was submitted is safe.
  void wait_until_safe() {
    const Instant until = in(std::chrono::seconds(20));
    while (true) {
      char byte = 0;
      while (recv(receiver_.get(), &byte, 1, 0) >= 0) continue;
      if (stats().done() >= safe_) return;
      ASSERT_LT(in({}), until);
      usleep(1000);
    }
  }
  SinkStats stats() const {
    SinkStats found;
    hub_->visit_stats(found);
    return found;
  }
  // Of the log's only source, as a hub that begins now goes on with it.
  logs::SourceAccount saved() const {
    const std::vector<LogAccount> accounts = hub_->restored(0);
    return accounts.empty() ? logs::SourceAccount() : accounts.front().sources.front();
  }
  // Begins anew with an account that has so many refused lines of too_large_ bytes, and so many
  // delivered ones of one byte.
  void restart_with(uint64_t refused, uint64_t delivered) {
    ASSERT_NO_FATAL_FAILURE(restart());
    EXPECT_EQ(saved().rejected(), (Tally{refused, refused * too_large_}));
    EXPECT_EQ(saved().delivered, (Tally{delivered, delivered}));
  }
  logs::SourceAccount& account() { return log_.sources.front(); }

  const TemporaryFolder folder_;
  const size_t too_large_ = too_large();
  const std::string large_ = std::string(too_large_, 'x');
  MadeFiles made_;
  std::vector<std::string> sinks_;
  std::optional<logs::SpoolSpec> spool_;
  UniqueFd receiver_;
  std::unique_ptr<LogHub> hub_;
  std::shared_ptr<ReplyBox> box_ = std::make_shared<ReplyBox>();
  LogAccount log_{.id = {1, 2}, .boot = {}, .sources = std::vector<logs::SourceAccount>(1)};
  uint64_t safe_ = 0;  // records that are to be safe
};

TEST_P(LogHubTest, AnAccountHasRefusalsThatItsReceiverWasNotToldOf) {
  submit({"a", large_});
  submit({"b", "c"});
  ASSERT_NO_FATAL_FAILURE(wait_until_safe());
  submit({large_, "d"});
  submit({"e"});
  ASSERT_NO_FATAL_FAILURE(wait_until_safe());
  ASSERT_NO_FATAL_FAILURE(restart_with(2, 5));
}

// What a sink was given is safe in it or refused by it, also where a connection that was lost makes
// it refuse a line again.
TEST_P(LogHubTest, ASinkCountsALineAsSafeOrAsRefused) {
  submit({"a", large_, "b"});
  const Instant until = in(std::chrono::seconds(20));
  // Nothing is read, so nothing of it is safe.
  while (stats().refused.front() < 1) ASSERT_LT(in({}), until);
  EXPECT_EQ(stats().safe, (std::vector<uint64_t>{0}));
  ASSERT_NO_FATAL_FAILURE(replace_receiver());
  ASSERT_NO_FATAL_FAILURE(wait_until_safe());
  submit({"c"});
  ASSERT_NO_FATAL_FAILURE(wait_until_safe());
  EXPECT_EQ(stats().safe, (std::vector<uint64_t>{3}));
  EXPECT_EQ(stats().refused, (std::vector<uint64_t>{1}));
}

TEST_P(LogHubTest, ARefusalThatAReceiverKnowsIsNotCountedTwice) {
  submit({large_, "a"});
  ASSERT_NO_FATAL_FAILURE(wait_until_safe());
  told_of_refusals({1, too_large_});
  submit({"b", large_});
  submit({"c"});
  ASSERT_NO_FATAL_FAILURE(wait_until_safe());
  told_of_refusals({1, too_large_});
  submit({"d"});
  ASSERT_NO_FATAL_FAILURE(wait_until_safe());
  ASSERT_NO_FATAL_FAILURE(restart_with(2, 4));
  // A receiver that begins with that account adds to it.
  ASSERT_EQ(hub_->restored(0).size(), 1u);
  log_ = hub_->restored(0).front();
  submit({large_});
  submit({"e"});
  ASSERT_NO_FATAL_FAILURE(wait_until_safe());
  ASSERT_NO_FATAL_FAILURE(restart_with(3, 5));
}

// The spool has the accounts as they were when the lines came, the sink's file has the refusals.
TEST_P(LogHubTest, ARestartWithASpoolKeepsRefusals) {
  spool_ = logs::SpoolSpec{.path = folder_ / "spool", .size = 16 << 20, .sync = {}};
  ASSERT_NO_FATAL_FAILURE(restart());
  submit({"a", large_});
  submit({"b"});
  ASSERT_NO_FATAL_FAILURE(wait_until_safe());
  ASSERT_NO_FATAL_FAILURE(restart_with(1, 2));
  ASSERT_EQ(hub_->restored(0).size(), 1u);
  log_ = hub_->restored(0).front();
  submit({"c", large_});
  ASSERT_NO_FATAL_FAILURE(wait_until_safe());
  ASSERT_NO_FATAL_FAILURE(restart_with(2, 3));
}

// A sink that is before the one that refuses has saved the account by then.
TEST_P(LogHubTest, ARestartTakesRefusalsFromEverySink) {
  for (const auto& sinks : {std::vector{file(), datagrams()}, std::vector{datagrams(), file()}}) {
    sinks_ = sinks;
    log_.id.low += 1;
    account() = {};
    log_.position = 0;
    ASSERT_NO_FATAL_FAILURE(restart());
    submit({"a", large_});
    ASSERT_NO_FATAL_FAILURE(wait_until_safe());
    ASSERT_NO_FATAL_FAILURE(restart());
    ASSERT_FALSE(hub_->restored(0).empty());
    log_ = hub_->restored(0).back();
    EXPECT_EQ(account().rejected(), (Tally{1, too_large_})) << sinks.front();
    EXPECT_EQ(account().delivered, (Tally{1, 1})) << sinks.front();
  }
}

LogAccount account_of(uint64_t lines, uint64_t refused) {
  LogAccount log{.id = {3, 4}, .boot = {}, .sources = std::vector<logs::SourceAccount>(1)};
  log.sources.front().next = {lines, 10 * lines};
  log.sources.front().delivered = {lines, 10 * lines};
  log.sources.front().reject({refused, 10 * refused});
  return log;
}

Parcel parcel_of(uint64_t lines, uint64_t refused) {
  Parcel parcel;
  parcel.account = account_of(lines, refused);
  return parcel;
}

uint64_t completed(const RefusalTally& tally, LogAccount log) {
  tally.complete(0, log);
  return log.sources.front().rejected().lines;
}

TEST(RefusalTally, AnAccountHasTheRefusalsBeforeItsEnd) {
  RefusalTally tally;
  Parcel first = parcel_of(5, 0);
  Parcel second = parcel_of(9, 0);
  tally.refuse(second, {0, 7, 10});
  tally.refuse(second, {0, 8, 10});
  EXPECT_EQ(completed(tally, first.account), 0u);
  EXPECT_EQ(completed(tally, second.account), 2u);
  // Another sink is behind, and refuses one of the same lines and one before them.
  tally.refuse(first, {0, 2, 10});
  tally.refuse(second, {0, 7, 10});
  EXPECT_EQ(completed(tally, first.account), 1u);
  EXPECT_EQ(completed(tally, second.account), 3u);
  EXPECT_EQ(second.refused.size(), 2u);
  tally.settle(first);
  EXPECT_EQ(completed(tally, second.account), 3u);
  tally.settle(second);
  EXPECT_EQ(completed(tally, account_of(20, 0)), 3u);
  EXPECT_EQ(completed(tally, account_of(20, 3)), 3u);
}

TEST(RefusalTally, ASinkThatWasAheadAtARestartKeepsWhatItHad) {
  RefusalTally tally;
  tally.note(0, account_of(8, 5));
  tally.note(0, account_of(3, 3));
  EXPECT_EQ(completed(tally, account_of(3, 0)), 3u);
  EXPECT_EQ(completed(tally, account_of(8, 3)), 5u);
  // The sink that was behind refuses the lines that the other one had refused.
  Parcel again = parcel_of(8, 3);
  tally.refuse(again, {0, 5, 10});
  tally.refuse(again, {0, 6, 10});
  EXPECT_EQ(completed(tally, account_of(8, 3)), 5u);
  tally.settle(again);
  EXPECT_EQ(completed(tally, account_of(9, 3)), 5u);
}

TEST(RefusalTally, WhatAReceiverWasToldOfBeforeIsNotCountedAgain) {
  RefusalTally tally;
  Parcel parcel = parcel_of(9, 4);
  tally.refuse(parcel, {0, 8, 10});
  EXPECT_EQ(completed(tally, parcel.account), 5u);
}

INSTANTIATE_TEST_SUITE_P(Driver, LogHubTest,
                         testing::Values(DriverChoice::kIoUring, DriverChoice::kEpoll));

}  // namespace
}  // namespace virtproxy
