// The hub with a real sink and its file of accounts, in a thread of its own.
#include "uring/service/logs/log_hub.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "tests/unit/driver_fixture.h"
#include "tests/unit/temporary_folder.h"
#include "uring/service/logs/account_file.h"

namespace virtproxy {
namespace {

using logs::DropReason;
using logs::LogAccount;
using logs::Tally;

constexpr size_t kTooLarge = 1 << 20;  // for a datagram: more than a socket's send buffer

struct SafeRecords final : StatVisitor {
  void visit(const StatInfo& info, const StatSample& sample) override {
    if (info.name == "log_sink_records") records = sample.value;
  }
  uint64_t records = 0;
};

// Over a driver of the choice: one sink, which is a datagram socket of the test.
class LogHubTest : public testing::TestWithParam<DriverChoice> {
 protected:
  void SetUp() override {
    receiver_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, (folder_ / "sink").c_str(), sizeof address.sun_path - 1);
    ASSERT_EQ(bind(receiver_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    start();
  }
  void TearDown() override {
    if (hub_) hub_->stop();
  }

  void start() {
    const auto sink = parse_sink("unix-dgram:" + (folder_ / "sink").string() +
                                 ",state=" + (folder_ / "state").string());
    ASSERT_TRUE(sink) << sink.error().what;
    auto hub = LogHub::open({*sink}, spool_, {"vm1"}, made_);
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
    start();
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
  void told_of_refusals(Tally more) {
    account().dropped[static_cast<size_t>(DropReason::kRejected)].add(more.lines, more.bytes);
    account().delivered.lines -= more.lines;
    account().delivered.bytes -= more.bytes;
  }
  // Until all that was submitted is safe.
  void wait_until_safe() {
    const Instant until = in(std::chrono::seconds(20));
    SafeRecords found;
    while (found.records < safe_) {
      ASSERT_LT(in({}), until);
      char byte = 0;
      while (recv(receiver_.get(), &byte, 1, 0) >= 0) continue;
      hub_->visit_stats(found);
    }
  }
  // Of the log's only source, as a hub that begins now goes on with it.
  logs::SourceAccount saved() const {
    const std::vector<LogAccount> accounts = hub_->restored(0);
    return accounts.empty() ? logs::SourceAccount() : accounts.front().sources.front();
  }
  static Tally rejected(const logs::SourceAccount& account) {
    return account.dropped[static_cast<size_t>(DropReason::kRejected)];
  }
  logs::SourceAccount& account() { return log_.sources.front(); }

  const TemporaryFolder folder_;
  const std::string large_ = std::string(kTooLarge, 'x');
  MadeFiles made_;
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
  wait_until_safe();
  submit({large_, "d"});
  submit({"e"});
  wait_until_safe();
  restart();
  EXPECT_EQ(rejected(saved()), (Tally{2, 2 * kTooLarge}));
  EXPECT_EQ(saved().delivered, (Tally{5, 5}));
}

TEST_P(LogHubTest, ARefusalThatAReceiverKnowsIsNotCountedTwice) {
  submit({large_, "a"});
  wait_until_safe();
  told_of_refusals({1, kTooLarge});
  submit({"b", large_});
  submit({"c"});
  wait_until_safe();
  told_of_refusals({1, kTooLarge});
  submit({"d"});
  wait_until_safe();
  restart();
  EXPECT_EQ(rejected(saved()), (Tally{2, 2 * kTooLarge}));
  EXPECT_EQ(saved().delivered, (Tally{4, 4}));
  // Who goes on with that account counts on.
  log_ = hub_->restored(0).front();
  submit({large_});
  submit({"e"});
  wait_until_safe();
  restart();
  EXPECT_EQ(rejected(saved()), (Tally{3, 3 * kTooLarge}));
  EXPECT_EQ(saved().delivered, (Tally{5, 5}));
}

// The spool has the accounts as they were when the lines came, and the sink knows better.
TEST_P(LogHubTest, ARestartWithASpoolKeepsRefusals) {
  spool_ = logs::SpoolSpec{.path = folder_ / "spool", .size = 16 << 20, .sync = {}};
  restart();
  submit({"a", large_});
  submit({"b"});
  wait_until_safe();
  restart();
  EXPECT_EQ(rejected(saved()), (Tally{1, kTooLarge}));
  EXPECT_EQ(saved().delivered, (Tally{2, 2}));
  log_ = hub_->restored(0).front();
  submit({"c", large_});
  wait_until_safe();
  restart();
  EXPECT_EQ(rejected(saved()), (Tally{2, 2 * kTooLarge}));
  EXPECT_EQ(saved().delivered, (Tally{3, 3}));
}

INSTANTIATE_TEST_SUITE_P(Driver, LogHubTest,
                         testing::Values(DriverChoice::kIoUring, DriverChoice::kEpoll));

}  // namespace
}  // namespace virtproxy
