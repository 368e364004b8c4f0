// Lines to a program on its standard input; it acknowledges on its standard output:
//
//   ACK N LF     the first N lines since the program was started are safe
//
// Whenever it ends it is started again (child_keeper.h), and gets what it had not acknowledged.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "uring/service/logs/child_keeper.h"
#include "uring/service/logs/line_format.h"
#include "uring/service/logs/log_sink.h"
#include "uring/service/logs/sent_parcels.h"

namespace virtproxy {

class ExecSink final : public LogSink, private Completion, private Timer::Owner {
 public:
  // Starts the process that runs the program.
  static tl::expected<std::unique_ptr<LogSink>, std::string> open(const SinkSpec& spec);

  void start(Loop& loop, ResolverDriver& resolver, Client* client) override;
  bool has_room() const override { return parcels_.bytes() < kWindow; }
  void take(const ParcelView& view) override;
  void flush() override;
  uint64_t safe() const override { return parcels_.safe(); }
  void stop() override;
  bool idle() const override { return !news_op_.pending && pipes_idle(); }

 private:
  // Bytes of lines that are not acknowledged.
  static constexpr size_t kWindow = 4u << 20;
  // … and of those that wait for the pipe.
  static constexpr size_t kMostUnsent = 64u << 10;

  ExecSink(const SinkSpec& spec, ChildKeeper keeper)
      : spec_(spec),
        writer_(spec.format),
        keeper_(std::move(keeper)),
        news_op_(this),
        input_op_(this),
        input_end_op_(this),
        output_op_(this) {}
  void complete(Op& op, Outcome outcome) override;
  // The program has closed a pipe and did not end.
  void expired(Timer&) override { break_off(std::string("it has closed its ") + closed_); }
  bool pipes_idle() const {
    return !input_op_.pending && !input_end_op_.pending && !output_op_.pending;
  }
  void take_news(ChildKeeper::News news);
  void begin();
  void lose();
  enum class Answers : uint8_t {
    kOpen,    // more may come
    kClosed,  // no more come
    kWrong
  };
  void on_answers();
  Answers read_answers(size_t most, std::string& why);
  bool take_answer(std::string_view answer);
  void break_off(std::string_view why);
  void on_closed(const char* pipe);

  const SinkSpec spec_;
  LineWriter writer_;
  ChildKeeper keeper_;
  Loop* loop_ = nullptr;
  Client* client_ = nullptr;
  Op news_op_;
  Op input_op_;      // room in the pipe to the program
  Op input_end_op_;  // completes when that pipe has no reader
  Op output_op_;     // something in the one from the program
  SentParcels parcels_;
  enum class State : uint8_t {
    kDown,
    kUp,
    kLeaving,  // the pipes are to be closed once the kernel refers to them no more
    kStopped
  } state_ = State::kDown;
  UniqueFd input_;
  UniqueFd output_;
  std::optional<ChildKeeper::News> next_;  // a run that began meanwhile
  std::string out_;                        // lines for the pipe
  size_t written_ = 0;                     // bytes of it
  std::string answers_;                    // the beginning of one
  const char* closed_ = "";                // the pipe that the program has closed, for the log
  std::unique_ptr<Timer> ending_;          // until a program that has closed it is ended
  uint64_t acknowledged_ = 0;              // lines, since it was started
};

}  // namespace virtproxy
