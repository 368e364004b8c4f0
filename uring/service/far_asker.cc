#include "uring/service/far_asker.h"

#include <fmt/format.h>

#include <utility>

namespace virtproxy {

FarAsker::FarAsker(Loop& loop, Channel& channel)
    : loop_(loop), channel_(channel), label_(channel.label()), timer_(loop.timers(), this) {}

FarAsker::~FarAsker() {
  for (Question& question : questions_) {
    question.finish(tl::unexpected(fmt::format("channel {} has ended", label_)));
  }
}

void FarAsker::ask(std::string line, Finish finish) {
  if (questions_.size() >= kMostQuestions) {
    return finish(tl::unexpected(
        fmt::format("others are asking the other end of channel {}: try again", label_)));
  }
  questions_.push_back({std::move(line) + "\n", std::move(finish), loop_.now() + kPatience});
  if (state_ == State::kIdle && !timer_.armed()) begin();
}

void FarAsker::begin() {
  if (!channel_.session().up()) {
    return fail("channel {} is down: there is no other end to ask");
  }
  if (channel_.protocol() == 1) {
    return fail(
        "the other end of channel {} speaks protocol 1, in which it cannot be asked: that takes "
        "virtproxy with protocol 2 there");
  }
  state_ = State::kWaiting;
  timer_.set(questions_.front().deadline);
  channel_.admit(*this, ++client_);
}

std::unique_ptr<Endpoint> FarAsker::open(int client, StreamHandle& stream) {
  FarStream::Client* const self = this;
  const bool wanted = client == client_ && state_ == State::kWaiting;
  auto endpoint = std::make_unique<FarStream>(stream, self,
                                              wanted ? questions_.front().line : std::string("\n"));
  if (wanted) {
    state_ = State::kOpen;
    stream_ = endpoint.get();
  }
  return endpoint;
}

void FarAsker::refuse(int client) {
  if (client != client_ || state_ != State::kWaiting) return;
  fail("there is no stream on channel {} to ask the other end over");
}

bool FarAsker::stream_text(FarStream& stream, std::string_view text) {
  if (&stream != stream_) return false;
  if (answer_.size() + text.size() <= kMostAnswer) {
    answer_ += text;
    return true;
  }
  fail("the other end of channel {} has sent a longer answer than there can be");
  return false;
}

void FarAsker::stream_over(FarStream& stream, Fault fault) {
  if (&stream != stream_) return;
  switch (fault) {
    case Fault::kNone:
      return finish(std::move(answer_));
    case Fault::kUnknownService:
      return fail(
          "the other end of channel {} answers no questions: it is to be a virtproxy that runs with "
          "--share-stats (share-stats = true)");
    default:
      break;
  }
  finish(tl::unexpected(
      fmt::format("the other end of channel {} gave no answer: {}", label_, fault_text(fault))));
}

void FarAsker::expired(Timer&) {
  if (state_ == State::kIdle) {
    if (!questions_.empty()) begin();
    return;
  }
  FarStream* const stream = stream_;
  fail("the other end of channel {} has not answered within 5 s");
  if (stream != nullptr) stream->leave(Fault::kTimedOut);
}

void FarAsker::fail(const std::string& what) {
  finish(tl::unexpected(fmt::format(fmt::runtime(what), label_)));
}

void FarAsker::finish(Answer answer) {
  const Question question = std::move(questions_.front());
  questions_.pop_front();
  state_ = State::kIdle;
  stream_ = nullptr;
  answer_.clear();
  timer_.clear();
  // Not now: the channel may be in the middle of its work.
  if (!questions_.empty()) timer_.set(loop_.now());
  question.finish(std::move(answer));
}

}  // namespace virtproxy
