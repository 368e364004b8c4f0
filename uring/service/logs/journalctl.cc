#include "uring/service/logs/journalctl.h"

#include <cstring>
#include <utility>

#include "uring/base/log.h"

namespace virtproxy::logs {

void Journalctl::output_ended(std::string cursor) {
  cursor_ = std::move(cursor);
  if (state_ == State::kEnded) return run_again();
  if (state_ == State::kLast) return give_up();
  if (state_ != State::kRuns) return;
  state_ = State::kClosed;
  keeper_.kill();
}

void Journalctl::run_again() {
  state_ = State::kAsked;
  keeper_.run(cursor_);
}

void Journalctl::give_up() {
  state_ = State::kGone;
  log_error(
      "{}: journalctl is not run again, since the process that does it is gone: nothing more of "
      "the "
      "journal is shipped until this daemon is started anew",
      name_);
}

void Journalctl::complete(Op&, Outcome) {
  while (state_ != State::kStopped && state_ != State::kLast && state_ != State::kGone) {
    auto news = keeper_.receive();
    if (!news) return await_news();
    take_news(*std::move(news));
  }
}

void Journalctl::take_news(ChildKeeper::News news) {
  using Kind = ChildKeeper::News::Kind;
  switch (news.kind) {
    case Kind::kStarted:
      if (!news.output) {
        // No descriptor was free. It is run once more.
        state_ = State::kClosed;
        return keeper_.kill();
      }
      log_info("{}: journalctl runs again", name_);
      state_ = State::kRuns;
      return client_->journalctl_runs(std::move(news.output));
    case Kind::kEnded:
      log_error(
          "{}: journalctl {}; it is run again, and goes on behind the last line that was read",
          name_, ending_of(news.value));
      if (state_ == State::kClosed) return run_again();
      state_ = State::kEnded;
      return;
    case Kind::kCannotRun:
      log_error("{}: journalctl cannot be run: {}; it is tried again", name_,
                std::strerror(news.value));
      return run_again();
    case Kind::kGone:
      if (state_ != State::kRuns) return give_up();
      state_ = State::kLast;
      return;
  }
}

void Journalctl::stop() {
  state_ = State::kStopped;
  if (news_op_.pending) loop_.driver().cancel(news_op_);
}

}  // namespace virtproxy::logs
