#include "uring/service/logs/input.h"

#include <poll.h>

#include <cerrno>
#include <utility>

namespace virtproxy::logs {
namespace {

// Of a turn, for all that is read in it.
constexpr Duration kTurnShare = std::chrono::milliseconds(1);
constexpr unsigned kMostReads = 1000;

}  // namespace

Input::Input(Loop& loop, int fd) : loop_(loop), fd_(fd), op_(this) {}

void Input::start() { poll(); }

void Input::poll() {
  state_ = State::kPolling;
  loop_.driver().poll(op_, {fd_, -1}, POLLIN);
}

void Input::resume() {
  if (state_ == State::kBlocked) read_later();
}

void Input::drain() {
  if (state_ == State::kOver) return;
  draining_ = true;
  on_drain();
  if (!awaits_more()) await_no_more();
}

void Input::await_no_more() {
  if (state_ == State::kSuspended) return end();
  if (state_ != State::kPolling) return;
  loop_.driver().cancel(op_);
  read_later();
}

void Input::renew(int fd) {
  if (state_ != State::kSuspended) return;
  fd_ = fd;
  poll();
}

void Input::stop() {
  if (state_ == State::kOver) return;
  loop_.driver().cancel(op_);
  end();
}

void Input::end() {
  state_ = State::kOver;
  on_over();
  if (idle()) on_idle();
}

void Input::complete(Op&, Outcome outcome) {
  if (state_ == State::kOver) return idle() ? on_idle() : void();
  if (state_ != State::kPolling) return;  // cancelled by drain()
  if (outcome.result == -ECANCELED) return poll();
  read();
}

void Input::read_later() {
  state_ = State::kReading;
  if (std::exchange(deferred_, true)) return;
  loop_.defer(this);
}

void Input::run_deferred() {
  deferred_ = false;
  if (state_ == State::kReading) return read();
  if (state_ == State::kOver && idle()) on_idle();
}

// A turn that has taken long leaves what is there to the next one, once.
void Input::read() {
  const bool late = loop_.spent() > kTurnShare;
  if (late && !std::exchange(waited_, true)) return read_later();
  waited_ = false;
  for (TurnBudget budget(loop_, late ? 1 : kMostReads); budget.left(); budget.spend()) {
    switch (read_some()) {
      case Progress::kMore:
        continue;
      case Progress::kEmpty:
        return draining_ && !awaits_more() ? end() : poll();
      case Progress::kBlocked:
        state_ = State::kBlocked;
        return;
      case Progress::kSuspended:
        state_ = State::kSuspended;
        return;
      case Progress::kOver:
        return end();
    }
  }
  read_later();
}

}  // namespace virtproxy::logs
