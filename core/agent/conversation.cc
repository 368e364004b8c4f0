#include "core/agent/conversation.h"

#include <algorithm>
#include <utility>

namespace virtproxy::agent {
namespace {

constexpr uint64_t kIdMask = (uint64_t{1} << 53) - 1;  // what JSON readers keep exactly

bool is_sync(std::string_view method) {
  return method == "guest-sync" || method == "guest-sync-delimited";
}

bool is_number(const std::optional<std::string>& id, uint64_t number) {
  return id && *id == std::to_string(number);
}

}  // namespace

Conversation::Conversation(ConversationConfig config, PaceOf pace_of)
    : config_(std::move(config)),
      pace_of_(pace_of),
      reader_(config_.max_incoming),
      next_id_(config_.first_id & kIdMask),
      sync_due_(config_.sync_first),
      hello_due_(!config_.hello.is_null()) {
  if (!is_port()) return;
  waiting_.reserve(kMaxMessage);
  out_.reserve(kMaxMessage + kMaxRequest + kMaxSmall + kMaxEvent);
  queued_text_.reserve(kMaxRequest);
}

size_t Conversation::memory() const {
  return config_.max_incoming + waiting_.capacity() + out_.capacity() + queued_text_.capacity() +
         (is_port() ? kPortReadAhead : 0);
}

void Conversation::append(Slot slot, std::string_view text) {
  if (out_begin_ > 0 &&
      (out_begin_ == out_.size() || out_.size() + text.size() > out_.capacity())) {
    out_.erase(0, out_begin_);
    out_begin_ = 0;
  }
  out_.append(text);
  appended_ += text.size();
  slot_end_[slot] = appended_;
}

// --- reading ----------------------------------------------------------------------------------

bool Conversation::may_read() const {
  if (immediate_) return false;
  if (!is_port()) return !serving_ && free(kAnswer);
  // A further request is refused, and the refusal needs the small slot.
  return waiting_.empty() || free(kSmall);
}

size_t Conversation::receive(std::span<const std::byte> bytes, Instant now) {
  const size_t size = bytes.size();
  if (!may_read()) return 0;
  if (const auto item = reader_.next(bytes)) {
    switch (item->kind) {
      case LineReader::Kind::kReset:
        ++stats_.resets;
        break;
      case LineReader::Kind::kTooLong:
        on_bad(error_of(ErrorCode::kTooLarge, "the message is longer than " +
                                                  std::to_string(config_.max_incoming) + " bytes"),
               std::nullopt);
        break;
      case LineReader::Kind::kLine: {
        if (item->line.find_first_not_of(" \t\r") == std::string_view::npos) break;
        Message message = parse_message(item->line);
        switch (message.kind) {
          case Message::Kind::kRequest:
            ++stats_.requests;
            on_request(std::move(message), item->line);
            break;
          case Message::Kind::kReturn:
          case Message::Kind::kError:
            on_answer(std::move(message), now);
            break;
          case Message::Kind::kEvent: {
            Notice notice;
            notice.kind = Notice::Kind::kEvent;
            notice.name = std::move(message.name);
            notice.body = std::move(message.body);
            notice.timestamp = std::move(message.timestamp);
            notices_.push_back(std::move(notice));
            break;
          }
          case Message::Kind::kBad:
            on_bad(message.error, message.id);
            break;
        }
        break;
      }
    }
    pump(now);
  }
  return size - bytes.size();
}

void Conversation::on_bad(const Error& error, const std::optional<std::string>& id) {
  ++stats_.bad_lines;
  if (free(kSmall)) append(kSmall, encode_error(error, id));
  Notice notice;
  notice.kind = Notice::Kind::kBadLine;
  notice.error = error;
  notices_.push_back(std::move(notice));
}

void Conversation::dispatch(Message message, std::optional<Served>& place) {
  Notice notice;
  notice.kind = Notice::Kind::kRequest;
  notice.token = next_token_++;
  notice.name = std::move(message.name);
  notice.body = std::move(message.body);
  place = Served{notice.token, std::move(message.id)};
  notices_.push_back(std::move(notice));
}

void Conversation::on_request(Message message, std::string_view line) {
  if (is_sync(message.name)) return on_sync(message);
  if (!serving_ && waiting_.empty() && !sync_to_answer_ && free(kAnswer)) {
    return dispatch(std::move(message), serving_);
  }
  // Without an id only the order tells to which request an answer belongs.
  if (pace_of_(message.name) == Pace::kImmediate && message.id && waiting_.empty() &&
      !sync_to_answer_ && free(kSmall)) {
    return dispatch(std::move(message), immediate_);
  }
  if (waiting_.empty()) {
    waiting_.assign(line);
    return;
  }
  ++stats_.busy;
  append(kSmall,
         encode_error(error_of(ErrorCode::kBusy,
                               "two requests are unanswered: wait for the answer of the first"),
                      message.id));
}

void Conversation::abandon_served() {
  for (std::optional<Served>* served : {&serving_, &immediate_}) {
    if (!*served) continue;
    Notice notice;
    notice.kind = Notice::Kind::kAbandoned;
    notice.token = (*served)->token;
    notices_.push_back(std::move(notice));
    served->reset();
    ++stats_.abandoned;
  }
}

void Conversation::on_sync(const Message& message) {
  const auto value = message.body.find("id");
  if (value == message.body.end() || !value->is_number_integer() || message.body.size() != 1) {
    return on_bad(error_of(ErrorCode::kBadArgument, message.name + " takes id, an integer"),
                  message.id);
  }
  // The peer discards all answers up to that of the sync, so a later one would reach another
  // request.
  abandon_served();
  if (!waiting_.empty()) {
    ++stats_.abandoned;
    waiting_.clear();
  }
  peer_greeted_ = false;
  sync_to_answer_ = Sync{message.name == "guest-sync-delimited", *value, message.id};
}

// --- answering --------------------------------------------------------------------------------

void Conversation::answer(uint64_t token, const Result& result, Instant now) {
  const bool immediate = immediate_ && immediate_->token == token;
  if (!immediate && !(serving_ && serving_->token == token)) {
    ++stats_.late;
    return;
  }
  std::optional<Served>& served = immediate ? immediate_ : serving_;
  std::string text =
      result ? encode_return(*result, served->id) : encode_error(result.error(), served->id);
  const size_t most = immediate ? kMaxSmall : config_.max_answer;
  if (text.size() > most) {
    text = encode_error(error_of(ErrorCode::kTooLarge,
                                 "the answer is longer than " + std::to_string(most) + " bytes"),
                        served->id);
  }
  served.reset();
  append(immediate ? kSmall : kAnswer, text);
  pump(now);
}

void Conversation::sent(size_t bytes, Instant now) {
  out_begin_ += bytes;
  written_ += bytes;
  if (out_begin_ == out_.size()) {
    out_.clear();
    out_begin_ = 0;
  }
  pump(now);
}

void Conversation::pump(Instant now) {
  if (sync_to_answer_ && free(kSmall)) {
    std::string text = encode_return(sync_to_answer_->value, sync_to_answer_->id);
    if (sync_to_answer_->delimited) text.insert(text.begin(), static_cast<char>(kResetByte));
    sync_to_answer_.reset();
    append(kSmall, text);
  }
  if (!waiting_.empty() && !serving_ && !sync_to_answer_ && free(kAnswer)) {
    Message message = parse_message(waiting_);
    waiting_.clear();
    dispatch(std::move(message), serving_);
  }
  pump_calls(now);
  pump_events();
}

// --- calling ----------------------------------------------------------------------------------

uint64_t Conversation::next_id() {
  const uint64_t id = next_id_;
  next_id_ = (next_id_ + 1) & kIdMask;
  return id;
}

tl::expected<uint64_t, Error> Conversation::call(std::string_view method, const Json& arguments,
                                                 Duration timeout, Instant now) {
  if (queued_) {
    return tl::unexpected(
        error_of(ErrorCode::kBusy, "one request is in flight and one waits for it"));
  }
  const uint64_t id = next_id();
  const std::string text = encode_request(method, arguments, id);
  if (text.size() > kMaxRequest) {
    return tl::unexpected(
        error_of(ErrorCode::kTooLarge,
                 "the request is longer than " + std::to_string(kMaxRequest) + " bytes"));
  }
  queued_ = Queued{id, now + timeout};
  queued_text_.assign(text);
  pump(now);
  return id;
}

void Conversation::greet(Instant now) {
  sync_due_ = true;
  hello_due_ = !config_.hello.is_null();
  greet_due_ = true;
  pump(now);
}

void Conversation::cancel(uint64_t call, Instant now) {
  if (queued_ && queued_->id == call) queued_.reset();
  if (state_ == State::kCalling && in_flight_ == call) {
    // The peer still serves it. A sync takes it back.
    state_ = State::kIdle;
    sync_due_ = true;
    hello_due_ = !config_.hello.is_null();
  }
  pump(now);
}

void Conversation::pump_calls(Instant now) {
  if (state_ != State::kIdle || !free(kRequest)) return;
  if (!queued_ && !greet_due_) return;
  if (config_.needs_hello && !peer_greeted_) return;
  if (sync_due_ || hello_due_) {
    in_flight_ = next_id();
    deadline_ = now + kCallTimeout;
    if (sync_due_) {
      state_ = State::kSyncing;
      append(kRequest,
             static_cast<char>(kResetByte) +
                 encode_request("guest-sync-delimited", {{"id", in_flight_}}, in_flight_));
    } else {
      state_ = State::kGreeting;
      append(kRequest, encode_request("va-hello", config_.hello, in_flight_));
    }
    return;
  }
  greet_due_ = false;
  if (!queued_) return;
  state_ = State::kCalling;
  in_flight_ = queued_->id;
  deadline_ = queued_->deadline;
  queued_.reset();
  append(kRequest, queued_text_);
  ++stats_.calls;
}

void Conversation::on_answer(Message message, Instant now) {
  const bool returned = message.kind == Message::Kind::kReturn;
  Notice notice;
  switch (state_) {
    case State::kSyncing: {
      // A guest agent of old does not repeat the id.
      const bool ours = returned && message.body.is_number_integer() &&
                        message.body == Json(in_flight_) &&
                        (!message.id || is_number(message.id, in_flight_));
      if (!ours) break;
      state_ = State::kIdle;
      sync_due_ = false;
      if (!hello_due_) greet_due_ = false;
      return pump_calls(now);
    }
    case State::kGreeting:
      if (!is_number(message.id, in_flight_)) break;
      state_ = State::kIdle;
      hello_due_ = false;
      notice.kind = Notice::Kind::kGreeted;
      if (returned) notice.body = std::move(message.body);
      notices_.push_back(std::move(notice));
      return pump_calls(now);
    case State::kCalling:
      if (!is_number(message.id, in_flight_)) break;
      state_ = State::kIdle;
      notice.token = in_flight_;
      notice.kind = returned ? Notice::Kind::kAnswered : Notice::Kind::kFailed;
      notice.body = std::move(message.body);
      notice.error = std::move(message.error);
      notices_.push_back(std::move(notice));
      return pump_calls(now);
    case State::kIdle:
      break;
  }
  ++stats_.discarded;
}

void Conversation::fail_call(uint64_t call, Error error) {
  Notice notice;
  notice.kind = Notice::Kind::kFailed;
  notice.token = call;
  notice.error = std::move(error);
  notices_.push_back(std::move(notice));
}

void Conversation::peer_greeted(Instant now) {
  peer_greeted_ = true;
  pump(now);
}

std::optional<Instant> Conversation::next_deadline() const {
  std::optional<Instant> first;
  if (state_ != State::kIdle) first = deadline_;
  if (queued_) first = std::min(first.value_or(queued_->deadline), queued_->deadline);
  return first;
}

void Conversation::tick(Instant now) {
  const Error late = error_of(ErrorCode::kTimeout, "the other end has not answered in time");
  if (state_ != State::kIdle && now >= deadline_) {
    ++stats_.timeouts;
    if (state_ == State::kCalling) {
      fail_call(in_flight_, late);
    } else if (greet_due_) {
      greet_due_ = false;
      Notice notice;
      notice.kind = Notice::Kind::kUngreeted;
      notices_.push_back(std::move(notice));
    }
    state_ = State::kIdle;
    sync_due_ = true;
    hello_due_ = !config_.hello.is_null();
  }
  if (queued_ && now >= queued_->deadline) {
    ++stats_.timeouts;
    const uint64_t call = queued_->id;
    queued_.reset();
    fail_call(call, late);
  }
  pump(now);
}

void Conversation::restart(Instant now) {
  reader_.reset();
  abandon_served();
  waiting_.clear();
  sync_to_answer_.reset();
  peer_greeted_ = false;
  out_.clear();
  out_begin_ = 0;
  written_ = appended_;
  if (state_ == State::kCalling) {
    fail_call(in_flight_, io_error("ECONNRESET", "the connection was lost before the answer came"));
  }
  state_ = State::kIdle;
  sync_due_ = config_.sync_first;
  hello_due_ = !config_.hello.is_null();
  greet_due_ = false;
  tick(now);
}

// --- events -----------------------------------------------------------------------------------

void Conversation::post_event(std::string event, Instant now) {
  if (events_.size() == kEventRing) {
    events_.pop_front();
    ++events_lost_;
    ++stats_.events_lost;
  }
  events_.push_back(std::move(event));
  pump(now);
}

void Conversation::pump_events() {
  if (events_.empty() || !free(kEvent)) return;
  if (events_lost_ > 0) {
    append(kEvent, encode_event("va-lost", {{"lost", events_lost_}}, std::nullopt));
    events_lost_ = 0;
    return;
  }
  append(kEvent, events_.front());
  events_.pop_front();
}

}  // namespace virtproxy::agent
