// Two channels of one loop, and endpoints without a socket that follow a script.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "uring/io/io_uring_driver.h"
#include "uring/mux/channel.h"
#include "uring/mux/endpoint.h"
#include "uring/mux/service_registry.h"

namespace virtproxy {

inline constexpr std::string_view kScriptedService = "virtproxy.test";

inline std::string text_of(size_t size, unsigned seed) {
  std::string text(size, '\0');
  for (char& c : text)
    c = static_cast<char>('a' + ((seed = seed * 1664525 + 1013904223) >> 24) % 26);
  return text;
}

// What an endpoint does and what it saw. Outlives it.
struct Script {
  std::string to_send{};
  // After all was sent. kAnswerTheEnd: nothing is sent before the end of the peer.
  enum class Then { kEnd, kAnswerTheEnd, kStayOpen, kReset } then = Then::kEnd;
  Fault refusal = Fault::kNone;  // what start() answers the peer, if not kNone
  bool lends = false;            // what is sent stays as it is until it is written

  std::string received{};
  size_t received_at_end = SIZE_MAX;  // bytes, when the peer's end came
  bool broken_off = false;
  std::vector<std::weak_ptr<const std::string>> lent{};
  std::vector<Fault> over{};       // each way it ended; one at most
  StreamHandle* stream = nullptr;  // while it is open
};

class Scripted final : public Endpoint {
 public:
  Scripted(StreamHandle& stream, Script& script, StreamRole role)
      : stream_(stream), script_(script), role_(role) {}

  void start() override {
    if (role_ == StreamRole::kAcceptor && script_.refusal != Fault::kNone) {
      stream_.refuse(script_.refusal, "the script says so");
      return end(script_.refusal);
    }
    if (role_ == StreamRole::kAcceptor) stream_.accepted();
    script_.stream = &stream_;
    may_queue();
  }

  void may_queue() override {
    const bool peer_ended = script_.received_at_end != SIZE_MAX;
    if (script_.then == Script::Then::kAnswerTheEnd && !peer_ended) return;
    const size_t left = script_.to_send.size() - queued_;
    if (left > 0) {
      const auto bytes = std::min<uint64_t>(left, stream_.request_credit());
      if (bytes == 0) return;
      queued_ += bytes;
      stream_.queue(bytes);
    }
    if (queued_ < script_.to_send.size() || ended_) return;
    if (script_.then == Script::Then::kReset) {
      ended_ = true;
      if (!stream_.reset_after_data()) end(Fault::kAborted);
    } else if (script_.then != Script::Then::kStayOpen) {
      ended_ = true;
      stream_.end();
    }
  }

  // In small parts, so that a frame has several.
  OutSegment take(uint32_t bytes) override {
    const auto size = std::min<size_t>(bytes, 5000);
    EXPECT_LE(taken_ + size, queued_);
    const std::string_view part = std::string_view(script_.to_send).substr(taken_, size);
    taken_ += size;
    if (script_.lends) {
      auto owner = std::make_shared<const std::string>(part);
      script_.lent.push_back(owner);
      return {.bytes = std::as_bytes(std::span(*owner)), .owner = owner};
    }
    return {.bytes = std::as_bytes(std::span(part))};
  }

  void deliver(std::span<const std::byte> bytes, ReadBuffer*) override {
    EXPECT_EQ(script_.received_at_end, SIZE_MAX) << "nothing comes after the end";
    script_.received.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    undelivered_ += bytes.size();
    stream_.want_flush();
  }
  void peer_ended() override {
    script_.received_at_end = script_.received.size();
    stream_.want_flush();
  }
  void flush(bool) override {
    if (stream_.is_over()) return;
    if (undelivered_ > 0) stream_.consumed(std::exchange(undelivered_, 0));
    if (script_.received_at_end == SIZE_MAX || std::exchange(told_, true)) return;
    stream_.eof_delivered();
    may_queue();
  }
  void peer_broke_off() override {
    script_.broken_off = true;
    stream_.reset(Fault::kAborted);
    end(Fault::kAborted);
  }

  void abort(Fault fault) override { end(fault); }
  void finish() override { end(Fault::kNone); }
  void let_go() override { EXPECT_TRUE(stream_.has_ended()); }
  bool idle() const override { return true; }

 private:
  void end(Fault fault) {
    script_.over.push_back(fault);
    script_.stream = nullptr;
    stream_.over(fault);
  }

  StreamHandle& stream_;
  Script& script_;
  const StreamRole role_;
  size_t queued_ = 0;
  size_t taken_ = 0;
  size_t undelivered_ = 0;
  bool ended_ = false;
  bool told_ = false;
};

struct ScriptedService final : Service {
  tl::expected<std::unique_ptr<Endpoint>, Fault> open(
      StreamHandle& stream, std::span<const std::byte> metadata) override {
    client.assign(reinterpret_cast<const char*>(metadata.data()), metadata.size());
    if (refusal != Fault::kNone) return tl::unexpected(refusal);
    return std::make_unique<Scripted>(stream, script, StreamRole::kAcceptor);
  }
  Script script;
  Fault refusal = Fault::kNone;
  std::string client;  // what the peer told of the last one
};

// Its clients are the scripts, by their index.
struct ScriptedOpener final : Opener {
  std::string_view service() const override { return name; }
  size_t describe(int client, std::span<std::byte> metadata) override {
    metadata[0] = static_cast<std::byte>('0' + client);
    return 1;
  }
  std::unique_ptr<Endpoint> open(int client, StreamHandle& stream) override {
    return std::make_unique<Scripted>(stream, scripts.at(static_cast<size_t>(client)),
                                      StreamRole::kOpener);
  }
  void refuse(int client) override { refused.push_back(client); }
  std::string_view name = kScriptedService;
  std::vector<Script> scripts;
  std::vector<int> refused;
};

class ChannelPairTest : public testing::Test, private Timer::Owner {
 protected:
  static constexpr Duration kPatience = std::chrono::seconds(10);

  // Makes both channels and waits for their session. `listening` is for the second one.
  void connect(const ChannelSpec& here, const ChannelSpec& there, Listening listening) {
    auto driver = IoUringDriver::open(256, {});
    if (!driver) GTEST_SKIP() << "no ring here: " << driver.error();
    loop_ = std::make_unique<Loop>(wrap(std::move(*driver)));
    resolver_ = std::make_unique<ResolverDriver>(*loop_);
    Timer::Owner* const owner = this;
    limit_ = std::make_unique<Timer>(loop_->timers(), owner);
    ASSERT_TRUE(registry_.add(std::string(kScriptedService), service_));
    ASSERT_FALSE(registry_.add(std::string(kScriptedService), service_)) << "the name is taken";
    here_ = make(here, 0);
    there_ = make(there, 1);
    there_->start(std::move(listening));
    here_->start({});
    ASSERT_TRUE(run([&] { return here_->session().up() && there_->session().up(); }));
  }

  // The driver of the loop, as a test wants it.
  virtual std::unique_ptr<Driver> wrap(std::unique_ptr<Driver> driver) { return driver; }

  void TearDown() override {
    if (here_ == nullptr || there_ == nullptr) return;
    for (Channel* channel : {here_.get(), there_.get()}) channel->stop();
    EXPECT_TRUE(run([&] { return here_->flushed() && there_->flushed(); }));
    for (Channel* channel : {here_.get(), there_.get()}) channel->disconnect();
    EXPECT_TRUE(run([&] { return here_->idle() && there_->idle(); }));
    here_.reset();
    there_.reset();
    resolver_.reset();
    limit_.reset();
  }

  // Turns until `done` holds. False when that takes too long.
  bool run(const std::function<bool()>& done) {
    late_ = false;
    limit_->set(loop_->now() + kPatience);
    while (!done() && !late_) {
      if (loop_->turn() != 0) return false;
    }
    limit_->clear();
    return !late_;
  }
  // Both ends have forgotten every stream.
  bool all_over() {
    return here_->drained() && there_->drained() && here_->session().stats().streams == 0 &&
           there_->session().stats().streams == 0;
  }

  std::unique_ptr<Channel> make(const ChannelSpec& spec, unsigned id) {
    ChannelConfig config;
    config.spec = spec;
    config.spec.id = id;
    config.spec.name = std::to_string(id);
    config.memory = 8 << 20;
    config.max_streams = 16;
    config.window = 64 << 10;
    config.protocol = ProtocolMode::kV2;
    config.epoch_key = {id + 1, id + 2};
    config.first_buffer_group = static_cast<uint16_t>(2 * id);
    EXPECT_TRUE(Channel::check(config));
    return std::make_unique<Channel>(*loop_, *resolver_, config, id == 0 ? nothing_ : registry_);
  }

  std::unique_ptr<Loop> loop_;
  std::unique_ptr<ResolverDriver> resolver_;
  ScriptedService service_;
  ScriptedOpener opener_;
  ServiceRegistry nothing_;
  ServiceRegistry registry_;
  std::unique_ptr<Channel> here_;   // opens
  std::unique_ptr<Channel> there_;  // has the service

 private:
  void expired(Timer&) override { late_ = true; }

  std::unique_ptr<Timer> limit_;
  bool late_ = false;
};

}  // namespace virtproxy
