#include "uring/service/logs/relp_sink.h"

#include <algorithm>

#include "uring/base/text.h"
#include "uring/base/units.h"

namespace virtproxy {
namespace {

constexpr uint32_t kMostNumber = 999'999'999;
// Of an answer: the largest is that to "open".
constexpr size_t kMostAnswer = 32u << 10;
// A receiver whose queue is full answers late; one that is silent for so long is gone.
constexpr Duration kAnswerTime = std::chrono::seconds(90);

uint32_t after(uint32_t number) { return number == kMostNumber ? 1 : number + 1; }

}  // namespace

void RelpSink::start(Loop& loop, ResolverDriver& resolver, LogSink::Client* client) {
  loop_ = &loop;
  client_ = client;
  Timer::Owner* const owner = this;
  answer_due_ = std::make_unique<Timer>(loop.timers(), owner);
  SinkLink::Client* const self = this;
  link_ = std::make_unique<SinkLink>(loop, resolver, spec_.address, spec_.label(), self);
  link_->start();
}

void RelpSink::frame(std::string_view command, std::string_view data) {
  std::string& out = link_->out();
  out += std::to_string(next_);
  out += ' ';
  out += command;
  out += ' ';
  out += std::to_string(data.size());
  if (!data.empty()) out += ' ';
  out += data;
  out += '\n';
  next_ = after(next_);
}

void RelpSink::link_up() {
  state_ = State::kOpening;
  next_ = answer_ = 1;
  input_.clear();
  parcels_.rewind();
  frame("open", "relp_version=0\nrelp_software=virtproxy\ncommands=syslog");
  link_->flush();
  answer_due_->set(loop_->now() + kAnswerTime);
}

void RelpSink::link_down() {
  state_ = State::kDown;
  counters().up = false;
  counters().failures.fetch_add(1, std::memory_order_relaxed);
  answer_due_->clear();
  parcels_.rewind();
}

void RelpSink::expired(Timer&) { link_->reset("no answer"); }

void RelpSink::flush() {
  if (state_ != State::kOpen) return;
  const bool silent = parcels_.sent() == 0;
  while (parcels_.has_unsent() && link_->unsent() < kMostUnsent) {
    const std::string& message = parcels_.unsent();
    counters().written.fetch_add(message.size(), std::memory_order_relaxed);
    frame("syslog", message);
    parcels_.mark_sent();
  }
  if (silent && parcels_.sent() > 0) answer_due_->set(loop_->now() + kAnswerTime);
  link_->flush();
}

void RelpSink::link_received(std::string_view bytes) {
  input_ += bytes;
  const uint64_t before = parcels_.safe();
  std::string_view rest = input_;
  while (link_->up() && take_answer(rest)) {
  }
  if (parcels_.safe() != before) client_->sink_progressed();
  if (!link_->up()) return;
  input_.erase(0, input_.size() - rest.size());
  if (parcels_.sent() == 0 && state_ == State::kOpen) answer_due_->clear();
  flush();
}

// One frame at the front of `rest`. False if it is not complete, or was the last one.
bool RelpSink::take_answer(std::string_view& rest) {
  const auto wrong = [&] {
    link_->reset("answers with something else than RELP: give the port of imrelp");
    return false;
  };
  // TXNR SP COMMAND SP LENGTH, then SP or LF
  const std::string_view head = rest.substr(0, 64);
  const size_t first = head.find(' ');
  const size_t second = first == std::string_view::npos ? first : head.find(' ', first + 1);
  const size_t third =
      second == std::string_view::npos ? second : head.find_first_of(" \n", second + 1);
  if (third == std::string_view::npos) return head.size() < 64 ? false : wrong();
  const auto number = parse_number<uint32_t>(head.substr(0, first));
  const std::string_view command = head.substr(first + 1, second - first - 1);
  const auto length = parse_number<uint32_t>(head.substr(second + 1, third - second - 1));
  if (!number || !length || *length > kMostAnswer) return wrong();
  const size_t begin = *length == 0 && head[third] == '\n' ? third : third + 1;
  if (rest.size() < begin + *length + 1) return false;
  if (rest[begin + *length] != '\n') return wrong();
  const std::string_view data = rest.substr(begin, *length);
  rest.remove_prefix(begin + *length + 1);
  if (command == "serverclose") {
    link_->reset("the receiver is ending");
    return false;
  }
  if (command != "rsp" || *number != answer_) return wrong();
  if (!data.starts_with("200")) {
    link_->reset("refused by the receiver: " + printable(data.substr(0, 100)));
    return false;
  }
  answer_ = after(answer_);
  answer_due_->set(loop_->now() + kAnswerTime);
  if (state_ == State::kOpening) {
    state_ = State::kOpen;
    counters().up = true;
    return true;
  }
  if (parcels_.sent() == 0) return wrong();
  parcels_.acknowledge();
  link_->works();
  return true;
}

void RelpSink::stop() {
  answer_due_->clear();
  link_->stop();
}

}  // namespace virtproxy
