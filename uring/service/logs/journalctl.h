// journalctl, which a journal is read from. It is run again when it has ended, behind the last
// entry that was read, by a process that was started before the sandbox (child_keeper.h).
#pragma once

#include <poll.h>

#include <string>
#include <utility>

#include "uring/base/unique_fd.h"
#include "uring/io/loop.h"
#include "uring/service/logs/child_keeper.h"

namespace virtproxy::logs {

class Journalctl final : private Completion {
 public:
  class Client {
   public:
    // It runs again; the pipe from it, which does not block.
    virtual void journalctl_runs(UniqueFd output) = 0;

   protected:
    ~Client() = default;
  };

  // It runs already. `name` is how the log calls the source.
  Journalctl(Loop& loop, ChildKeeper keeper, std::string name, Client* client)
      : loop_(loop),
        keeper_(std::move(keeper)),
        name_(std::move(name)),
        client_(client),
        news_op_(this) {}

  void start() { await_news(); }
  bool up() const {
    return state_ == State::kRuns || state_ == State::kEnded || state_ == State::kLast;
  }
  // The pipe has ended. It is run again behind the entry of that cursor; without one, as it was
  // first.
  void output_ended(std::string cursor);
  void stop();
  bool idle() const { return !news_op_.pending; }

 private:
  enum class State : uint8_t {
    kRuns,
    kEnded,   // the pipe from it has more
    kClosed,  // the pipe has ended, and it has not
    kAsked,   // it is to be run again
    kLast,    // it runs, and the process that would run it again is gone
    kGone,    // neither is left
    kStopped
  };

  void complete(Op& op, Outcome outcome) override;
  void await_news() { loop_.driver().poll(news_op_, {keeper_.fd(), -1}, POLLIN); }
  void take_news(ChildKeeper::News news);
  void run_again();
  void give_up();

  Loop& loop_;
  ChildKeeper keeper_;
  const std::string name_;
  Client* client_;
  Op news_op_;
  State state_ = State::kRuns;
  std::string cursor_;
};

}  // namespace virtproxy::logs
