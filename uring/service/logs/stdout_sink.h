// Lines on standard output. Safe is what was written: whoever reads a pipe has no way to tell more.
//
// No write waits, whatever reads or does not. Other programs share the open file description, whose
// mode therefore stays as it is:
//
//   pipe, terminal, device   it is opened again, as a description of its own that does not block
//   … of another user        a process of its own copies to it from a pipe, as `| cat` would
//   socket                   each send does not wait
//   file                     a write does not wait for a reader
#pragma once

#include <memory>
#include <string>

#include "uring/base/unique_fd.h"
#include "uring/service/logs/line_format.h"
#include "uring/service/logs/log_sink.h"

namespace virtproxy {

class StdoutSink final : public LogSink, private Completion, private Timer::Owner {
 public:
  // While this process has one thread.
  static tl::expected<std::unique_ptr<LogSink>, std::string> open(const SinkSpec& spec);

  void start(Loop& loop, ResolverDriver& resolver, Client* client) override;
  bool has_room() const override { return pending_.size() < kMostPending; }
  void take(const ParcelView& view) override;
  void flush() override;
  uint64_t safe() const override { return safe_; }
  void stop() override;
  bool idle() const override { return !poll_.pending; }

 private:
  static constexpr size_t kMostPending = 1u << 20;
  // What a turn writes before other sinks have theirs.
  static constexpr size_t kTurn = 256u << 10;

  enum class Kind : uint8_t { kFile, kSocket, kOther };
  enum class State : uint8_t {
    kReady,
    kWaiting,   // until there is room
    kRetrying,  // a write failed; tried again by the timer
    kGone,      // nothing reads it any more
    kStopped
  };

  StdoutSink(const SinkSpec& spec, Kind kind, UniqueFd own)
      : writer_(spec.format), kind_(kind), own_(std::move(own)), poll_(this) {}
  void complete(Op& op, Outcome outcome) override;
  void expired(Timer& timer) override;
  ssize_t write_some(const char* from, size_t size) const;
  void fail(int error);

  LineWriter writer_;
  const Kind kind_;
  const UniqueFd own_;  // with kOther
  Loop* loop_ = nullptr;
  Client* client_ = nullptr;
  Op poll_;
  std::unique_ptr<Timer> retry_;
  State state_ = State::kReady;
  bool reported_ = false;  // the log has that a write failed
  std::string pending_;
  size_t written_ = 0;  // bytes of it
  uint64_t taken_ = 0;
  uint64_t safe_ = 0;
};

}  // namespace virtproxy
