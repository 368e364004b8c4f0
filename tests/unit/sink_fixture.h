// A sink by itself: what it is given, and what it tells of.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/driver_fixture.h"
#include "tests/unit/temporary_folder.h"
#include "uring/service/logs/log_sink.h"

namespace virtproxy {

struct TestTimer final : Timer::Owner {
  explicit TestTimer(Loop& loop) : timer(loop.timers(), this) {}
  void expired(Timer&) override { passed = true; }

  Timer timer;
  bool passed = false;
};

// Over a driver of the choice.
class SinkTest : public testing::TestWithParam<DriverChoice>, private LogSink::Client {
 protected:
  void SetUp() override {
    auto opened = open_driver(GetParam(), 256, {});
    if (!opened) GTEST_SKIP() << opened.error();
    loop_ = std::make_unique<Loop>(std::move(opened->driver));
    resolver_ = std::make_unique<ResolverDriver>(*loop_);
    limit_ = std::make_unique<TestTimer>(*loop_);
  }
  void TearDown() override {
    if (sink_) {
      sink_->stop();
      EXPECT_TRUE(run([&] { return sink_->idle(); }));
    }
    sink_.reset();
    accounts_.reset();
    limit_.reset();
    resolver_.reset();
    loop_.reset();
  }

  void open(const std::string& text) {
    const auto spec = parse_sink(text);
    ASSERT_TRUE(spec) << spec.error().what;
    if (!spec->state.empty()) {
      auto accounts = AccountFile::open(spec->state, made_);
      ASSERT_TRUE(accounts) << accounts.error();
      accounts_ = std::make_unique<AccountFile>(*std::move(accounts));
    }
    auto sink = open_sink(*spec, accounts_.get(), made_);
    ASSERT_TRUE(sink) << sink.error();
    sink_ = *std::move(sink);
    LogSink::Client* const client = this;
    sink_->start(*loop_, *resolver_, client);
  }
  // A parcel of one line.
  void give(const std::string& line) {
    auto parcel = std::make_shared<Parcel>();
    parcel->account.id = {1, 2};
    parcel->account.sources.emplace_back().name = "source";
    parcel->text = line;
    ParcelRecord record;
    record.size = static_cast<uint32_t>(line.size());
    record.bytes = line.size();
    record.seq = parcels_.size();
    parcel->records.push_back(record);
    parcels_.push_back(parcel);
    sink_->take({"vm1", *parcel});
  }
  std::string in_folder(const std::string& name) const { return (folder_ / name).string(); }
  std::vector<std::string> lines(const std::string& name) const {
    std::ifstream in(folder_ / name);
    std::vector<std::string> all;
    for (std::string line; std::getline(in, line);) all.push_back(line);
    return all;
  }
  // A program that sh runs.
  std::string script(const std::string& text) const {
    const std::string path = in_folder("program");
    std::ofstream(path) << "#!/bin/sh\n" << text;
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }
  bool run(const std::function<bool()>& done, Duration most = std::chrono::seconds(20)) {
    limit_->passed = false;
    limit_->timer.set(loop_->now() + most);
    while (!done() && !limit_->passed) {
      if (loop_->turn() != 0) return false;
      if (std::exchange(progressed_, false) && sink_) sink_->flush();
    }
    limit_->timer.clear();
    return !limit_->passed;
  }
  // Without the loop.
  bool wait_for_file(const std::string& name) const {
    const Instant until = in(std::chrono::seconds(20));
    while (!std::filesystem::exists(folder_ / name)) {
      if (in({}) > until) return false;
      usleep(1000);
    }
    return true;
  }

  const TemporaryFolder folder_;
  MadeFiles made_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<ResolverDriver> resolver_;
  std::unique_ptr<TestTimer> limit_;
  std::unique_ptr<AccountFile> accounts_;
  std::unique_ptr<LogSink> sink_;
  std::vector<std::shared_ptr<Parcel>> parcels_;

 private:
  void sink_progressed() override {
    progressed_ = true;
    loop_->hurry();
  }

  bool progressed_ = false;
};

}  // namespace virtproxy
