#include "uring/service/logs/relp_sink.h"

#include <algorithm>

#include "uring/base/text.h"
#include "uring/base/units.h"

namespace virtproxy {
namespace {

constexpr uint32_t kMostNumber = 999'999'999;
// Of an answer: the largest is that to "open".
constexpr size_t kMostRelpAnswer = 32u << 10;
// A receiver whose queue is full answers late; one that is silent for so long is gone.
constexpr Duration kRelpAnswerTime = std::chrono::seconds(90);

uint32_t after(uint32_t number) { return number == kMostNumber ? 1 : number + 1; }

}  // namespace

void RelpSink::frame(std::string_view command, std::string_view data) {
  std::string& out = link().out();
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
  link().flush();
  timer().set(loop().now() + kRelpAnswerTime);
}

void RelpSink::lost() {
  state_ = State::kDown;
  timer().clear();
  parcels_.rewind();
}

void RelpSink::expired(Timer&) { link().give_up("no answer"); }

void RelpSink::flush() {
  if (state_ != State::kOpen || !link().up()) return;
  const bool silent = parcels_.sent() == 0;
  while (parcels_.has_unsent() && link().unsent() < kMostUnsent) {
    const std::string& message = parcels_.unsent();
    counters().written.fetch_add(message.size(), std::memory_order_relaxed);
    frame("syslog", message);
    parcels_.mark_sent();
  }
  if (silent && parcels_.sent() > 0) timer().set(loop().now() + kRelpAnswerTime);
  link().flush();
}

void RelpSink::link_received(std::string_view bytes) {
  input_ += bytes;
  const uint64_t before = parcels_.safe();
  std::string_view rest = input_;
  while (link().receives() && take_answer(rest)) {
  }
  if (parcels_.safe() != before) progressed();
  if (!link().receives()) return;
  input_.erase(0, input_.size() - rest.size());
  if (parcels_.sent() == 0 && state_ == State::kOpen) timer().clear();
  flush();
}

// One frame at the front of `rest`. False if it is not complete, or was the last one.
bool RelpSink::take_answer(std::string_view& rest) {
  const auto wrong = [&] {
    link().reset("answers with something else than RELP: give the port of imrelp");
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
  if (!number || !length || *length > kMostRelpAnswer) return wrong();
  const size_t begin = *length == 0 && head[third] == '\n' ? third : third + 1;
  if (rest.size() < begin + *length + 1) return false;
  if (rest[begin + *length] != '\n') return wrong();
  const std::string_view data = rest.substr(begin, *length);
  rest.remove_prefix(begin + *length + 1);
  if (command == "serverclose") {
    link().reset("the receiver is ending");
    return false;
  }
  if (command != "rsp" || *number != answer_) return wrong();
  if (!data.starts_with("200")) {
    link().reset("refused by the receiver: " + printable(data.substr(0, 100)));
    return false;
  }
  answer_ = after(answer_);
  timer().set(loop().now() + kRelpAnswerTime);
  if (state_ == State::kOpening) {
    state_ = State::kOpen;
    counters().up = true;
    return true;
  }
  if (parcels_.sent() == 0) return wrong();
  parcels_.acknowledge();
  link().works();
  return true;
}

}  // namespace virtproxy
