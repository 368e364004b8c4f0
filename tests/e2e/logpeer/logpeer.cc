// The receiving end of log shipping, for tests: a channel on a unix socket with the service
// virtproxy.log. What it accounts for goes to files and to standard output.
//
//   virtproxy-logpeer SOCKET FILE [no-ack]
//
// FILE gets each line as u16 source, u8 kind (0 line, 1 head), u64 number, u64 full length, u32
// size and the bytes, little-endian. Standard output gets the accounts of all logs as one line of
// JSON whenever they have changed. With no-ack nothing is acknowledged.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/logs/receiver.h"
#include "uring/io/open_driver.h"
#include "uring/mux/channel.h"
#include "uring/mux/service_registry.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy {
namespace {

using logs::Received;

class Account {
 public:
  Account(const char* file, bool acknowledges)
      : file_(std::fopen(file, "wb")), acknowledges_(acknowledges) {
    if (file_ == nullptr) std::abort();
  }

  logs::Receiver& receiver() { return receiver_; }
  // The stream that lines come by: one that ends later than its successor begins is of no concern.
  const void* stream = nullptr;

  logs::StreamFault feed(std::span<const std::byte> bytes) {
    std::vector<Received> found;
    const logs::StreamFault fault = receiver_.feed(bytes, found);
    bool final = false;
    for (const Received& one : found) {
      if (one.kind == Received::Kind::kLine || one.kind == Received::Kind::kHead) write(one);
      final = final || one.kind == Received::Kind::kFinal;
    }
    std::fflush(file_);
    if (acknowledges_ && receiver_.log() != nullptr) {
      if (final) {
        receiver_.acknowledge_final(logs::AckLevel::kSink);
      } else if (!receiver_.log()->finished) {
        receiver_.acknowledge(receiver_.log()->position, logs::AckLevel::kSink);
      }
    }
    print();
    return fault;
  }

 private:
  void write(const Received& one) {
    put<uint16_t>(one.source);
    put<uint8_t>(one.kind == Received::Kind::kHead ? 1 : 0);
    put<uint64_t>(one.record.seq);
    const auto bytes = one.record.line.bytes;
    put<uint64_t>(one.kind == Received::Kind::kHead ? one.record.full_length : bytes.size());
    put<uint32_t>(static_cast<uint32_t>(bytes.size()));
    std::fwrite(bytes.data(), 1, bytes.size(), file_);
  }
  template <typename T>
  void put(T value) {
    std::fwrite(&value, sizeof value, 1, file_);
  }

  void print() {
    nlohmann::json logs = nlohmann::json::array();
    for (const logs::LogAccount& log : receiver_.accounts()) {
      nlohmann::json sources = nlohmann::json::array();
      for (const logs::SourceAccount& source : log.sources) {
        nlohmann::json dropped = nlohmann::json::object();
        for (size_t i = 0; i < logs::kDropReasons; ++i) {
          const auto& tally = source.dropped[i];
          if (tally.lines == 0) continue;
          dropped[std::string(logs::name_of(static_cast<logs::DropReason>(i)))] = {tally.lines,
                                                                                   tally.bytes};
        }
        sources.push_back({{"name", source.name},
                           {"next", {source.next.seq, source.next.bytes}},
                           {"delivered", {source.delivered.lines, source.delivered.bytes}},
                           {"dropped", dropped},
                           {"unaccounted", source.unaccounted.lines},
                           {"duplicates", source.duplicates},
                           {"balanced", source.balanced()}});
      }
      logs.push_back(
          {{"id", std::to_string(log.id.low)}, {"finished", log.finished}, {"sources", sources}});
    }
    std::string text = nlohmann::json{{"logs", logs}}.dump();
    if (text == printed_) return;
    printed_ = std::move(text);
    std::puts(printed_.c_str());
    std::fflush(stdout);
  }

  std::FILE* file_;
  const bool acknowledges_;
  logs::Receiver receiver_{256};
  std::string printed_;
};

class LogEndpoint final : public Endpoint {
 public:
  // Bytes may be delivered before start().
  LogEndpoint(StreamHandle& stream, Account& account) : stream_(stream), account_(account) {
    account_.receiver().lost();
    account_.stream = this;
  }

  void start() override { stream_.accepted(); }
  void deliver(std::span<const std::byte> bytes, ReadBuffer*) override {
    if (account_.feed(bytes) != logs::StreamFault::kNone) {
      std::fputs("a fault on the stream\n", stderr);
      std::abort();
    }
    delivered_ += bytes.size();
    stream_.want_flush();
  }
  void peer_ended() override {
    ended_ = true;
    stream_.want_flush();
  }
  void peer_broke_off() override {
    stream_.reset(Fault::kAborted);
    end(Fault::kAborted);
  }
  void flush(bool) override {
    if (stream_.is_over()) return;
    if (delivered_ > 0) stream_.consumed(std::exchange(delivered_, 0));
    auto& out = account_.receiver().out();
    out_.insert(out_.end(), out.begin(), out.end());
    out.clear();
    may_queue();
    if (ended_ && !std::exchange(answered_, true)) {
      stream_.eof_delivered();
      stream_.end();
    }
  }
  void may_queue() override {
    const auto more = std::min<uint64_t>(out_.size() - queued_, stream_.request_credit());
    if (more == 0) return;
    queued_ += more;
    stream_.queue(more);
  }
  OutSegment take(uint32_t bytes) override {
    taking_.assign(out_.begin(), out_.begin() + std::min<ptrdiff_t>(bytes, queued_));
    out_.erase(out_.begin(), out_.begin() + static_cast<ptrdiff_t>(taking_.size()));
    queued_ -= taking_.size();
    return {.bytes = taking_};
  }
  void abort(Fault fault) override { end(fault); }
  void finish() override { end(Fault::kNone); }
  void let_go() override {}
  bool idle() const override { return true; }

 private:
  void end(Fault fault) {
    if (account_.stream == this) account_.receiver().lost();
    stream_.over(fault);
  }

  StreamHandle& stream_;
  Account& account_;
  std::vector<std::byte> out_;
  std::vector<std::byte> taking_;
  size_t queued_ = 0;
  uint64_t delivered_ = 0;
  bool ended_ = false;
  bool answered_ = false;
};

struct LogService final : Service {
  explicit LogService(Account& a) : account(a) {}
  tl::expected<std::unique_ptr<Endpoint>, Fault> open(StreamHandle& stream,
                                                      std::span<const std::byte>) override {
    return std::make_unique<LogEndpoint>(stream, account);
  }
  Account& account;
};

int run(const char* socket, const char* file, bool acknowledges) {
  auto opened = open_driver(DriverChoice::kAuto, 256, {});
  if (!opened) return 1;
  Loop loop(std::move(opened->driver));
  ResolverDriver resolver(loop);
  Account account(file, acknowledges);
  LogService service(account);
  ServiceRegistry registry;
  registry.add("virtproxy.log", service);
  ChannelConfig config;
  config.spec.transport = find_transport("unix-listen");
  config.spec.address = {Address::Kind::kUnix, socket, 0};
  config.spec.name = std::to_string(0);
  config.memory = 8 << 20;
  config.max_streams = 16;
  config.window = 256 << 10;
  config.epoch_key = {static_cast<uint64_t>(getpid()), static_cast<uint64_t>(std::rand())};
  auto listening = listen_on(config.spec.address, {});
  if (!listening) return 1;
  // For the life of the process: it ends by a signal.
  auto* const channel = new Channel(loop, resolver, config, registry);
  channel->start(*std::move(listening));
  while (loop.turn() == 0) continue;
  return 1;
}

}  // namespace
}  // namespace virtproxy

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  return virtproxy::run(argv[1], argv[2], argc == 3 || std::strcmp(argv[3], "no-ack") != 0);
}
