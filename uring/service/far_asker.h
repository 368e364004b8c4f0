// Asks the other end of a channel what it knows of it, over streams to its service
// virtproxy.control, on behalf of an operator here.
//
// One question is under way at a time. Each has its answer, or none, within kPatience. Nothing of
// what the other end sends is looked at here; it is bounded in size.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <string>
#include <tl/expected.hpp>

#include "uring/io/loop.h"
#include "uring/mux/channel.h"
#include "uring/mux/service_registry.h"
#include "uring/service/far_stream.h"

namespace virtproxy {

class FarAsker final : private Opener, private FarStream::Client, private Timer::Owner {
 public:
  static constexpr Duration kPatience = std::chrono::seconds(5);
  static constexpr size_t kMostAnswer = 512 << 10;  // bytes
  static constexpr size_t kMostQuestions = 8;       // that wait

  // The answer, or why there is none: a sentence for the operator.
  using Answer = tl::expected<std::string, std::string>;
  using Finish = std::function<void(Answer)>;

  // Outlives the channel.
  FarAsker(Loop& loop, Channel& channel);
  // Questions that are left are finished with an error.
  ~FarAsker();

  // `line` without its end. Calls `finish` once, now or later.
  void ask(std::string line, Finish finish);

 private:
  struct Question {
    std::string line;
    Finish finish;
    Instant deadline;
  };

  std::string_view service() const override { return kFarService; }
  std::unique_ptr<Endpoint> open(int client, StreamHandle& stream) override;
  void refuse(int client) override;
  bool stream_text(FarStream& stream, std::string_view text) override;
  void stream_over(FarStream& stream, Fault fault) override;
  void expired(Timer& timer) override;

  void begin();
  void finish(Answer answer);
  void fail(const std::string& what);

  Loop& loop_;
  Channel& channel_;
  const std::string label_;         // of the channel, which is gone before this
  std::deque<Question> questions_;  // the first is under way
  // As the channel knows the one that is under way. Others are over for the operator already.
  int client_ = 0;
  enum class State : uint8_t {
    kIdle,     // or about to ask the next question
    kWaiting,  // for a stream
    kOpen,
  };
  State state_ = State::kIdle;
  FarStream* stream_ = nullptr;
  std::string answer_;
  Timer timer_;  // until the next question, or the end of patience
};

}  // namespace virtproxy
