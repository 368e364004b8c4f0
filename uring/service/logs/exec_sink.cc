#include "uring/service/logs/exec_sink.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "uring/base/log.h"
#include "uring/base/text.h"
#include "uring/base/units.h"

namespace virtproxy {
namespace {

constexpr size_t kMostExecAnswer = 64;
// Of a turn, before other sinks have theirs: a program may write answers, and read lines, as fast
// as this process does the opposite.
constexpr size_t kMostAnswersOfTurn = 64u << 10;
constexpr size_t kMostLinesOfTurn = 256u << 10;
// What a pipe may hold that a program has left: the largest size that it may give to one without
// privileges.
constexpr size_t kMostAnswersLeft = 1u << 20;
// A program that has closed a pipe, and does not end in this time, is ended.
constexpr Duration kEndsAfterClosing = std::chrono::seconds(1);

}  // namespace

tl::expected<std::unique_ptr<LogSink>, std::string> ExecSink::open(const SinkSpec& spec) {
  if (access(spec.target.c_str(), X_OK) != 0) {
    return tl::unexpected("cannot run " + printable(spec.target) + ": " + std::strerror(errno));
  }
  std::vector<std::string> command{spec.target};
  command.insert(command.end(), spec.arguments.begin(), spec.arguments.end());
  auto keeper = ChildKeeper::start([command](std::string_view) { return command; });
  if (!keeper) return tl::unexpected(keeper.error());
  keeper->run();
  return std::unique_ptr<LogSink>(new ExecSink(spec, *std::move(keeper)));
}

void ExecSink::start(Loop& loop, ResolverDriver&, Client* client) {
  loop_ = &loop;
  client_ = client;
  Timer::Owner* const owner = this;
  ending_ = std::make_unique<Timer>(loop.timers(), owner);
  loop.driver().poll(news_op_, {keeper_.fd(), -1}, POLLIN);
}

void ExecSink::take(const ParcelView& view) {
  parcels_.add(view, [&](std::string& out, const ParcelRecord& record) {
    writer_.append(out, view.vm, view.parcel, record);
    out += '\n';
  });
}

void ExecSink::complete(Op& op, Outcome outcome) {
  if (&op == &news_op_ && state_ != State::kStopped) {
    bool gone = false;
    while (auto news = keeper_.receive()) {
      gone = news->kind == ChildKeeper::News::Kind::kGone;
      take_news(*std::move(news));
      if (gone) break;
    }
    if (!gone) loop_->driver().poll(news_op_, {keeper_.fd(), -1}, POLLIN);
  }
  if (&op == &output_op_ && state_ == State::kUp) on_answers();
  // One that has failed tells nothing: then a write finds the end.
  const bool ended = outcome.result > 0 && (outcome.result & (POLLERR | POLLHUP)) != 0;
  if (&op == &input_end_op_ && state_ == State::kUp && ended) on_closed("standard input");
  if (state_ == State::kLeaving && pipes_idle()) {
    input_.reset();
    output_.reset();
    state_ = State::kDown;
    begin();
  }
  if (&op == &input_op_ && state_ == State::kUp) flush();
}

void ExecSink::take_news(ChildKeeper::News news) {
  using Kind = ChildKeeper::News::Kind;
  ending_->clear();
  switch (news.kind) {
    case Kind::kStarted:
      log_info("{}: started, process {}", printable(spec_.label()), news.value);
      next_ = std::move(news);
      return begin();
    case Kind::kEnded:
      log_warn("{}: {}; it is started again", printable(spec_.label()), ending_of(news.value));
      keeper_.run();
      break;
    case Kind::kCannotRun:
      log_error("{}: cannot be run: {}; it is tried again", printable(spec_.label()),
                std::strerror(news.value));
      keeper_.run();
      break;
    case Kind::kGone:
      log_error(
          "{}: the process that runs it is gone: lines wait until this daemon is started anew",
          printable(spec_.label()));
      break;
  }
  lose();
}

// The program is there, and nothing of the one before is.
void ExecSink::begin() {
  if (state_ != State::kDown || !next_) return;
  input_ = std::move(next_->input);
  output_ = std::move(next_->output);
  next_.reset();
  if (!input_ || !output_) {
    // Without a free descriptor only one of them has come. The program is ended, and another one is
    // started after the keeper's pause.
    input_.reset();
    output_.reset();
    return keeper_.kill();
  }
  state_ = State::kUp;
  counters().up = true;
  acknowledged_ = 0;
  answers_.clear();
  loop_->driver().poll(output_op_, {output_.get(), -1}, POLLIN);
  // A program may close it while there is nothing to write. No event but the reader's end completes
  // this.
  loop_->driver().poll(input_end_op_, {input_.get(), -1}, 0);
  client_->sink_progressed();
}

void ExecSink::lose() {
  next_.reset();
  if (state_ != State::kUp) return;
  // What it acknowledged before it ended, or was told to, is not sent to the next one.
  std::string ignored;
  read_answers(kMostAnswersLeft, ignored);
  state_ = State::kLeaving;
  counters().up = false;
  counters().failures.fetch_add(1, std::memory_order_relaxed);
  parcels_.rewind();
  client_->sink_progressed();  // of what it had acknowledged before
  out_.clear();
  written_ = 0;
  for (Op* const op : {&input_op_, &input_end_op_, &output_op_}) {
    if (op->pending) loop_->driver().cancel(*op);
  }
  if (!pipes_idle()) return;
  input_.reset();
  output_.reset();
  state_ = State::kDown;
}

void ExecSink::break_off(std::string_view why) {
  log_error("{}: {}: it is ended, and started again", printable(spec_.label()), why);
  keeper_.kill();
  lose();
}

// A program that ends closes its pipes before its status is known.
void ExecSink::on_closed(const char* pipe) {
  closed_ = pipe;
  ending_->set(loop_->now() + kEndsAfterClosing);
  lose();
}

void ExecSink::flush() {
  size_t of_turn = 0;
  while (state_ == State::kUp && !input_op_.pending) {
    if (of_turn >= kMostLinesOfTurn) return client_->sink_progressed();
    while (parcels_.has_unsent() && out_.size() < kMostUnsent) {
      out_ += parcels_.unsent();
      parcels_.mark_sent();
    }
    if (out_.empty()) return;
    const ssize_t done = write(input_.get(), out_.data() + written_, out_.size() - written_);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && errno != EAGAIN) return on_closed("standard input");
    if (done < 0) return loop_->driver().poll(input_op_, {input_.get(), -1}, POLLOUT);
    written_ += static_cast<size_t>(done);
    of_turn += static_cast<size_t>(done);
    counters().written.fetch_add(static_cast<uint64_t>(done), std::memory_order_relaxed);
    if (written_ < out_.size()) continue;
    out_.clear();
    written_ = 0;
  }
}

void ExecSink::on_answers() {
  const uint64_t before = parcels_.safe();
  std::string why;
  switch (read_answers(kMostAnswersOfTurn, why)) {
    case Answers::kOpen:
      break;
    case Answers::kClosed:
      return on_closed("standard output");
    case Answers::kWrong:
      return break_off(why);
  }
  loop_->driver().poll(output_op_, {output_.get(), -1}, POLLIN);
  if (parcels_.safe() != before) client_->sink_progressed();
  flush();
}

// What is in the pipe, until there is nothing more or `most` bytes were read. `why` tells what is
// wrong.
ExecSink::Answers ExecSink::read_answers(size_t most, std::string& why) {
  std::array<char, 4096> bytes;
  for (size_t taken = 0; taken < most;) {
    const ssize_t got = read(output_.get(), bytes.data(), bytes.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) break;
    if (got <= 0) return Answers::kClosed;
    taken += static_cast<size_t>(got);
    answers_.append(bytes.data(), static_cast<size_t>(got));
    std::string_view rest = answers_;
    for (size_t end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
      const std::string_view answer = rest.substr(0, end);
      if (!take_answer(answer)) {
        why = "it has written " + in_quotes(answer.substr(0, kMostExecAnswer)) +
              " where ACK and a number of lines that it has got would be right";
        return Answers::kWrong;
      }
      rest.remove_prefix(end + 1);
    }
    answers_.erase(0, answers_.size() - rest.size());
    if (answers_.size() > kMostExecAnswer) {
      why = "it has written a line that is too long for an acknowledgement";
      return Answers::kWrong;
    }
  }
  return Answers::kOpen;
}

bool ExecSink::take_answer(std::string_view answer) {
  constexpr std::string_view kAck = "ACK ";
  if (!answer.starts_with(kAck)) return false;
  const auto count = parse_number<uint64_t>(answer.substr(kAck.size()));
  if (!count || *count < acknowledged_ || *count - acknowledged_ > parcels_.sent()) return false;
  parcels_.acknowledge(*count - acknowledged_);
  acknowledged_ = *count;
  return true;
}

void ExecSink::stop() {
  state_ = State::kStopped;
  if (ending_->armed()) keeper_.kill();
  ending_.reset();
  for (Op* const op : {&news_op_, &input_op_, &input_end_op_, &output_op_}) {
    if (op->pending) loop_->driver().cancel(*op);
  }
}

}  // namespace virtproxy
