// Lines on standard output. Safe is what was written: whoever reads a pipe has no way to tell more.
//
// The descriptor is shared with other programs and stays as it is, so that no write may be larger
// than what a pipe or terminal takes at once when it is ready.
#pragma once

#include <string>

#include "uring/service/logs/line_format.h"
#include "uring/service/logs/log_sink.h"

namespace virtproxy {

class StdoutSink final : public LogSink, private Completion {
 public:
  explicit StdoutSink(const SinkSpec& spec) : writer_(spec.format), poll_(this) {}

  void start(Loop& loop, ResolverDriver& resolver, Client* client) override;
  bool has_room() const override { return pending_.size() < kMostPending; }
  void take(const ParcelView& view) override;
  void flush() override;
  uint64_t safe() const override { return safe_; }
  void stop() override;
  bool idle() const override { return !poll_.pending; }

 private:
  static constexpr size_t kMostPending = 1u << 20;
  // PIPE_BUF: a pipe that is ready takes as much.
  static constexpr size_t kChunk = 4096;
  // What a turn writes before other sinks have theirs.
  static constexpr size_t kTurn = 256u << 10;

  void complete(Op& op, Outcome outcome) override;
  void await();

  LineWriter writer_;
  Loop* loop_ = nullptr;
  Client* client_ = nullptr;
  Op poll_;
  bool regular_ = false;  // a file, which is always ready
  bool stopped_ = false;
  bool broken_ = false;  // nobody reads it any more
  std::string pending_;
  size_t written_ = 0;
  uint64_t taken_ = 0;
  uint64_t safe_ = 0;
};

}  // namespace virtproxy
