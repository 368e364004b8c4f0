// Logs of guests, from the sending side of the protocol over two channels to the sinks and back.
#include "uring/service/logs/log_collector.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/logs/shipper.h"
#include "tests/unit/temporary_folder.h"
#include "uring/io/io_uring_driver.h"
#include "uring/mux/channel.h"
#include "uring/mux/service_registry.h"
#include "uring/service/logs/log_hub.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

namespace fs = std::filesystem;
constexpr Duration kPatience = std::chrono::seconds(60);

// The sending side of a guest without its sources.
class Guest final : public Opener {
 public:
  Guest() { begin_log(1); }

  // As after a start of the guest's daemon.
  void begin_log(uint64_t id) {
    shipper_ = std::make_unique<logs::Shipper>(
        logs::ShipperConfig{}, std::vector<logs::SourceConfig>{{"dev-log"}, {"other"}},
        logs::LogId{id, 77}, logs::LogId{1, 1}, std::nullopt);
    sent_.assign(2, {});
  }
  void log(const std::string& line, uint16_t source = 0) {
    const auto bytes = std::as_bytes(std::span(line));
    const Instant now{};
    shipper_->buffer().offer(source, {++time_, std::nullopt, bytes}, line.size(), now);
    sent_[source].push_back(line);
  }
  const std::vector<std::string>& sent(size_t source = 0) const { return sent_[source]; }
  logs::Shipper& shipper() { return *shipper_; }
  bool all_acknowledged() const {
    const auto& acked = shipper_->sender().acked();
    if (acked.size() != sent_.size()) return false;
    for (size_t i = 0; i < sent_.size(); ++i) {
      if (acked[i].seq != sent_[i].size()) return false;
    }
    return true;
  }
  bool open() const { return end_ != nullptr; }
  void pump() {
    if (end_ != nullptr) end_->pump();
  }
  void cut() {
    if (end_ != nullptr) end_->cut();
  }
  // Bytes that are no shipper's.
  void send_raw(std::vector<std::byte> bytes) { raw_ = std::move(bytes); }

  std::string_view service() const override { return kLogService; }
  std::unique_ptr<Endpoint> open(int, StreamHandle& stream) override {
    return std::make_unique<End>(*this, stream);
  }
  void refuse(int) override { ++refused; }
  int refused = 0;
  std::vector<Fault> over;

 private:
  class End final : public Endpoint {
   public:
    End(Guest& guest, StreamHandle& handle) : guest_(guest), handle_(handle) {}
    void start() override {
      guest_.end_ = this;
      guest_.shipper_->connected(handle_.loop().now());
      out_ = std::move(guest_.raw_);
      guest_.raw_.clear();
      pump();
    }
    void pump() {
      guest_.shipper_->pump(handle_.loop().now(), guest_.time_);
      auto& more = guest_.shipper_->out();
      out_.insert(out_.end(), more.begin(), more.end());
      more.clear();
      may_queue();
    }
    void may_queue() override {
      while (queued_ < out_.size()) {
        const uint64_t bytes = std::min<uint64_t>(out_.size() - queued_, handle_.request_credit());
        if (bytes == 0) return;
        queued_ += bytes;
        handle_.queue(bytes);
      }
    }
    OutSegment take(uint32_t bytes) override {
      const size_t size = std::min<size_t>(bytes, queued_ - taken_);
      taken_ += size;
      return {.bytes = std::span(out_).subspan(taken_ - size, size)};
    }
    void deliver(std::span<const std::byte> bytes, ReadBuffer*) override {
      EXPECT_EQ(guest_.shipper_->feed(bytes), logs::StreamFault::kNone);
      undelivered_ += bytes.size();
      handle_.want_flush();
    }
    void peer_ended() override {
      ended_ = true;
      handle_.want_flush();
    }
    void flush(bool) override {
      if (handle_.is_over()) return;
      if (ended_) return cut();
      handle_.consumed(std::exchange(undelivered_, 0));
      pump();
    }
    void cut() {
      handle_.reset(Fault::kAborted);
      end(Fault::kAborted);
    }
    void peer_broke_off() override { cut(); }
    void abort(Fault fault) override { end(fault); }
    void finish() override { end(Fault::kNone); }
    void let_go() override {}
    bool idle() const override { return true; }

   private:
    void end(Fault fault) {
      guest_.end_ = nullptr;
      guest_.shipper_->disconnected();
      guest_.over.push_back(fault);
      handle_.over(fault);
    }
    Guest& guest_;
    StreamHandle& handle_;
    std::vector<std::byte> out_;
    size_t queued_ = 0;
    size_t taken_ = 0;
    size_t undelivered_ = 0;
    bool ended_ = false;
  };

  std::unique_ptr<logs::Shipper> shipper_;
  std::vector<std::vector<std::string>> sent_;
  End* end_ = nullptr;
  std::vector<std::byte> raw_;
  logs::UnixTime time_ = 1'700'000'000'000'000'000;
};

class LogCollectorTest : public testing::Test, private Timer::Owner {
 protected:
  void SetUp() override {
    auto driver = IoUringDriver::open(256, {});
    if (!driver) GTEST_SKIP() << "no ring here: " << driver.error();
    file_ = folder_ / "guests.log";
    loop_ = std::make_unique<Loop>(std::move(*driver));
    resolver_ = std::make_unique<ResolverDriver>(*loop_);
    Timer::Owner* const owner = this;
    limit_ = std::make_unique<Timer>(loop_->timers(), owner);
  }
  void TearDown() override {
    if (there_) stop();
    limit_.reset();
    resolver_.reset();
  }

  // The collecting daemon, and a channel to it.
  void start(const std::vector<std::string>& sinks) {
    std::vector<SinkSpec> specs;
    for (const std::string& text : sinks) {
      const auto spec = parse_sink(text);
      ASSERT_TRUE(spec) << spec.error().what;
      specs.push_back(*spec);
    }
    auto hub = LogHub::open(specs, spool_, {"vm1", "vm2"}, made_);
    ASSERT_TRUE(hub) << hub.error();
    hub_ = *std::move(hub);
    ASSERT_TRUE(hub_->start(DriverChoice::kAuto, {}).get());
    hub_->go();
    collector_ = std::make_unique<LogCollector>(*loop_, *hub_, 0);
    registry_ = std::make_unique<ServiceRegistry>();
    ASSERT_TRUE(registry_->add(std::string(kLogService), *collector_));
    const Address address{Address::Kind::kUnix,
                          "@virtproxy-collect-test-" + std::to_string(getpid()), 0};
    auto listening = listen_on(address, {});
    ASSERT_TRUE(listening) << listening.error();
    here_ = make(find_transport("unix-connect"), address, 0);
    there_ = make(find_transport("unix-listen"), address, 1);
    there_->start(*std::move(listening));
    here_->start({});
    ASSERT_TRUE(run([&] { return here_->session().up() && there_->session().up(); }));
  }
  void stop() {
    collector_->drain();
    for (Channel* channel : {here_.get(), there_.get()}) channel->stop();
    EXPECT_TRUE(run([&] { return here_->flushed() && there_->flushed(); }));
    for (Channel* channel : {here_.get(), there_.get()}) channel->disconnect();
    collector_->stop();
    EXPECT_TRUE(run([&] { return here_->idle() && there_->idle() && collector_->idle(); }));
    here_.reset();
    there_.reset();
    collector_.reset();
    hub_->stop();
    hub_.reset();
  }
  void connect() {
    here_->admit(guest_, 0);
    ASSERT_TRUE(run([&] { return guest_.open(); }));
  }
  void ship() {
    guest_.pump();
    ASSERT_TRUE(run([&] {
      guest_.pump();
      return guest_.all_acknowledged();
    }));
  }
  bool run(const std::function<bool()>& done) {
    late_ = false;
    limit_->set(loop_->now() + kPatience);
    while (!done() && !late_) {
      if (loop_->turn() != 0) return false;
    }
    limit_->clear();
    return !late_;
  }
  uint64_t hub_value(std::string_view name) const { return value_of(*hub_, name); }
  uint64_t collector_value(std::string_view name) const { return value_of(*collector_, name); }
  template <typename Source>
  static uint64_t value_of(const Source& source, std::string_view name) {
    struct Finder final : StatVisitor {
      void visit(const StatInfo& info, const StatSample& sample) override {
        if (info.name == wanted) found = sample.value;
      }
      std::string_view wanted;
      uint64_t found = 0;
    } finder;
    finder.wanted = name;
    source.visit_stats(finder);
    return finder.found;
  }
  std::vector<std::string> lines(const fs::path& path) const {
    std::ifstream in(path);
    std::vector<std::string> all;
    for (std::string line; std::getline(in, line);) all.push_back(line);
    return all;
  }
  // The messages of a file of JSON lines, by source and in order of the file; each number once.
  std::map<std::string, std::vector<std::string>> messages(const std::vector<fs::path>& paths) {
    std::map<std::string, std::vector<std::string>> all;
    std::map<std::string, uint64_t> next;
    for (const fs::path& path : paths) {
      for (const std::string& line : lines(path)) {
        const auto json = nlohmann::json::parse(line);
        EXPECT_EQ(json["vm"], "vm1");
        const std::string source = json["source"];
        EXPECT_EQ(json["seq"].get<uint64_t>(), next[source]++) << line;
        all[source].push_back(json.value("message", "?"));
      }
    }
    return all;
  }

  const TemporaryFolder folder_;
  MadeFiles made_;
  fs::path file_;
  std::optional<logs::SpoolSpec> spool_;
  Guest guest_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<ResolverDriver> resolver_;
  std::unique_ptr<LogHub> hub_;
  std::unique_ptr<LogCollector> collector_;
  ServiceRegistry nothing_;
  std::unique_ptr<ServiceRegistry> registry_;
  std::unique_ptr<Channel> here_;   // the guest's
  std::unique_ptr<Channel> there_;  // the collector's

 private:
  std::unique_ptr<Channel> make(const TransportKind* transport, const Address& address,
                                unsigned id) {
    ChannelConfig config;
    config.spec.transport = transport;
    config.spec.address = address;
    config.spec.id = id;
    config.spec.name = std::to_string(id);
    config.memory = 8 << 20;
    config.max_streams = 16;
    config.window = 1 << 20;
    config.protocol = ProtocolMode::kV2;
    config.epoch_key = {id + 1, id + 2};
    config.first_buffer_group = static_cast<uint16_t>(2 * id);
    EXPECT_TRUE(Channel::check(config));
    return std::make_unique<Channel>(*loop_, *resolver_, config, id == 0 ? nothing_ : *registry_);
  }
  void expired(Timer&) override { late_ = true; }

  std::unique_ptr<Timer> limit_;
  bool late_ = false;
};

std::string json_file(const fs::path& path) { return "file:" + path.string() + ",format=json"; }

TEST_F(LogCollectorTest, LinesArriveWholeAndInOrder) {
  start({json_file(file_)});
  connect();
  for (int i = 0; i < 3000; ++i) {
    guest_.log("line " + std::to_string(i) + "\n\t\"\\", static_cast<uint16_t>(i % 2));
  }
  guest_.log("");
  guest_.log(std::string(200'000, 'x'));
  ship();
  const auto all = messages({file_});
  EXPECT_EQ(all.at("dev-log"), guest_.sent(0));
  EXPECT_EQ(all.at("other"), guest_.sent(1));
}

// What was acknowledged is in the file once, whatever lies behind it when the daemon starts again.
TEST_F(LogCollectorTest, AFileHasEachLineOnceOverRestarts) {
  for (int round = 0; round < 4; ++round) {
    start({json_file(file_)});
    connect();
    for (int i = 0; i < 500; ++i) guest_.log("round " + std::to_string(round));
    ship();
    for (int i = 0; i < 500; ++i) guest_.log("cut off " + std::to_string(round));
    guest_.pump();
    run([&] { return true; });
    stop();
    std::ofstream(file_, std::ios::app) << "{\"half a line";
  }
  start({json_file(file_)});
  connect();
  ship();
  EXPECT_EQ(messages({file_}).at("dev-log"), guest_.sent());
}

TEST_F(LogCollectorTest, AStreamThatIsCutGoesOnWhereItWas) {
  start({json_file(file_)});
  for (int round = 0; round < 20; ++round) {
    connect();
    for (int i = 0; i < 200; ++i) guest_.log("round " + std::to_string(round));
    guest_.pump();
    int turns = round;
    ASSERT_TRUE(run([&] {
      loop_->hurry();  // there may be nothing to wait for
      return turns-- <= 0;
    }));
    guest_.cut();
    ASSERT_TRUE(run([&] { return there_->session().stats().streams == 0; }));
  }
  connect();
  // A sender knows the marks of batches that it has sent on this stream alone.
  guest_.log("last");
  ship();
  EXPECT_EQ(messages({file_}).at("dev-log"), guest_.sent());
}

TEST_F(LogCollectorTest, AFullFileIsRotated) {
  const std::string sink = json_file(file_) + ",rotate=128K,keep=3";
  start({sink});
  connect();
  for (int round = 0; round < 24; ++round) {
    for (int i = 0; i < 50; ++i) guest_.log(std::to_string(round) + std::string(500, 'x'));
    ship();
  }
  EXPECT_TRUE(fs::exists(file_.string() + ".3"));
  EXPECT_FALSE(fs::exists(file_.string() + ".4"));
  std::vector<std::string> last;
  for (const char* const suffix : {".3", ".2", ".1", ""}) {
    const auto path = file_.string() + suffix;
    EXPECT_LE(fs::file_size(path), 128u << 10);
    for (const std::string& line : lines(path)) {
      last.push_back(nlohmann::json::parse(line)["message"]);
    }
  }
  const auto& sent = guest_.sent();
  ASSERT_LT(last.size(), sent.size());
  EXPECT_TRUE(std::equal(last.rbegin(), last.rend(), sent.rbegin())) << "the newest are kept";

  // Ended between the new names and the first commit: the file of the accounts is the one before.
  stop();
  const auto committed = fs::file_size(file_);
  std::ofstream(file_, std::ios::app) << "not acknowledged";
  fs::rename(file_, file_.string() + ".1");
  std::ofstream{file_} << "neither";
  start({sink});
  EXPECT_EQ(fs::file_size(file_.string() + ".1"), committed);
  connect();
  guest_.log("new");
  ship();
  ASSERT_EQ(lines(file_).size(), 1u);
  EXPECT_EQ(nlohmann::json::parse(lines(file_)[0])["message"], "new");
}

// A sink that is ahead of another one when the daemon ends has nothing twice afterwards.
TEST_F(LogCollectorTest, SinksOfDifferentProgressKeepTheirOwn) {
  const fs::path other = folder_ / "other.log";
  start({json_file(file_), json_file(other)});
  connect();
  for (int i = 0; i < 100; ++i) guest_.log("one");
  ship();
  stop();
  // The second one forgets all: it begins anew, and the first one leaves out what it has.
  fs::remove(other);
  fs::remove(other.string() + ".state");
  start({json_file(file_), json_file(other)});
  connect();
  for (int i = 0; i < 100; ++i) guest_.log("two");
  ship();
  EXPECT_EQ(messages({file_}).at("dev-log"), guest_.sent());
  EXPECT_EQ(lines(other).size(), 100u) << "the guest keeps nothing that was acknowledged";
}

// Nobody listens for the first sink. What was acknowledged then is in the second one, later.
TEST_F(LogCollectorTest, WhatIsInTheSpoolIsAcknowledgedAndComesToTheSinksLater) {
  spool_ = logs::SpoolSpec{folder_ / "spool", 8u << 20, {}};
  start({"syslog+unix:" + (folder_ / "nobody").string()});
  connect();
  for (int i = 0; i < 20'000; ++i) guest_.log("kept " + std::to_string(i) + std::string(100, 'x'));
  ship();
  EXPECT_EQ(guest_.shipper().sender().acked_level(), logs::AckLevel::kSpool);
  stop();
  for (int round = 0; round < 3; ++round) {
    start({json_file(file_)});
    connect();
    for (int i = 0; i < 100; ++i) guest_.log("round " + std::to_string(round));
    ship();
    ASSERT_TRUE(run([&] {
      loop_->hurry();
      return lines(file_).size() == guest_.sent().size();
    }));
    stop();
  }
  EXPECT_EQ(messages({file_}).at("dev-log"), guest_.sent());
}

TEST_F(LogCollectorTest, AFullSpoolLetsTheGuestWait) {
  spool_ = logs::SpoolSpec{folder_ / "spool", 8u << 20, {}};
  start({"syslog+unix:" + (folder_ / "nobody").string()});
  connect();
  const std::string text(1000, 'x');
  const size_t most = 20'000;
  for (size_t i = 0; i < most; ++i) {
    // The guest has 8 MiB for lines as well.
    guest_.log(std::to_string(i) + text);
    if (i % 1000 != 999) continue;
    ASSERT_TRUE(run([&] {
      guest_.pump();
      const logs::Buffer& buffer = guest_.shipper().buffer();
      return buffer.used() < (4u << 20) || hub_value("log_spool_used") > (6u << 20);
    }));
    if (guest_.shipper().buffer().used() > (4u << 20)) break;
  }
  EXPECT_FALSE(guest_.all_acknowledged());
  EXPECT_LE(hub_value("log_spool_used"), hub_value("log_spool_size"));
  stop();
  const size_t sent = guest_.sent().size();
  start({json_file(file_)});
  connect();
  ship();
  ASSERT_TRUE(run([&] {
    loop_->hurry();
    return lines(file_).size() == sent;
  }));
  EXPECT_EQ(messages({file_}).at("dev-log"), guest_.sent());
}

// Or a sink without a state would have the lines twice after the next start.
TEST_F(LogCollectorTest, WhatIsSafeWhenItEndsIsAcknowledged) {
  start({json_file(file_)});
  connect();
  for (int round = 0; round < 100; ++round) guest_.log("last lines " + std::to_string(round));
  ASSERT_TRUE(run([&] {
    guest_.pump();
    return collector_value("log_held") > 0;
  }));
  ASSERT_FALSE(guest_.all_acknowledged());
  collector_->drain();
  ASSERT_TRUE(run([&] { return !guest_.open(); }));
  EXPECT_TRUE(guest_.all_acknowledged());
  EXPECT_EQ(messages({file_}).at("dev-log"), guest_.sent());
  ASSERT_TRUE(run([&] { return there_->drained(); })) << "nothing of it holds up the end";
}

TEST_F(LogCollectorTest, AFaultEndsTheStreamAndTheNextOneWaits) {
  start({json_file(file_)});
  guest_.send_raw(std::vector<std::byte>(1000, std::byte{0x55}));
  connect();
  ASSERT_TRUE(run([&] { return guest_.over == std::vector{Fault::kAborted}; }));
  here_->admit(guest_, 0);
  ASSERT_TRUE(run([&] { return guest_.over.size() == 2; }));
  EXPECT_EQ(guest_.over.back(), Fault::kNoResources);
  guest_.log("after");
  ASSERT_TRUE(run([&] {
    if (!guest_.open() && there_->session().stats().streams == 0) here_->admit(guest_, 0);
    guest_.pump();
    return guest_.all_acknowledged();
  }));
  EXPECT_EQ(messages({file_}).at("dev-log"), guest_.sent());
}

TEST_F(LogCollectorTest, NumbersThatNothingExplainsAreARecord) {
  start({json_file(file_)});
  logs::Hello hello;
  hello.log = {5, 5};
  hello.sources.push_back({"dev-log", {}, {}});
  std::vector<std::byte> raw;
  encode(hello, raw);
  encode(logs::State{5, true, {{7, 700}}}, raw);
  guest_.send_raw(std::move(raw));
  here_->admit(guest_, 0);
  ASSERT_TRUE(run([&] { return !lines(file_).empty(); }));
  ASSERT_EQ(lines(file_).size(), 1u);
  const auto json = nlohmann::json::parse(lines(file_)[0]);
  EXPECT_EQ(json["source"], "dev-log");
  EXPECT_EQ(json["seq"], 0);
  EXPECT_EQ(json["unaccounted"]["count"], 7);
  EXPECT_EQ(json["unaccounted"]["bytes"], 700);
}

}  // namespace
}  // namespace virtproxy
