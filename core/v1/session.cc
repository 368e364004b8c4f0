#include "core/v1/session.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/assert.h"

namespace virtproxy {
namespace {

// Keys of this session differ from those of a V2Session beside it.
constexpr uint32_t kFirstGeneration = 1u << 31;

// Data a stream may have ready to be sent, bytes.
constexpr uint64_t kMostQueued = 256 * 1024;

// Answers that are kept for a peer that asks for more than it reads.
constexpr size_t kSpareAnswers = 64;

// A stream may borrow this many times as much as is left for others.
constexpr uint64_t kShareOfRest = 3;

// How often in a stall timeout the streams are checked for progress.
constexpr int kChecks = 4;

}  // namespace

V1Session::V1Session(const SessionConfig& config)
    : config_(config),
      next_number_(kFirstNumber +
                   static_cast<int32_t>((config.number_seed * 0x9e3779b97f4a7c15 >> 33) %
                                        static_cast<uint64_t>(kNumbers))),
      capacity_(config.limits.receive_budget -
                uint64_t{config.limits.initial_window} * config.limits.max_streams),
      streams_(kFirstGeneration),
      ours_(config.number_key),
      clients_(config.number_key),
      servers_(config.number_key),
      scheduler_(config.quantum),
      closing_(config.number_key) {
  VP_ASSERT(config.v1.hold > 0 && config.v1.stall_timeout > Duration::zero());
  streams_.reserve(config.limits.max_streams);
}

void V1Session::begin(Events& events) {
  VP_ASSERT(!up_);
  up_ = true;
  in_step_ = true;
  skipped_ = 0;
  ++sessions_;
  events.push_back({.kind = Event::Kind::kUp});
}

void V1Session::finish(Fault fault, Events& events) {
  if (!up_) return;
  up_ = false;
  forget_streams();
  closes_.clear();
  closing_.clear();
  unread_ = {};
  leaving_ = 0;
  closed_servers_ = {};
  hello_.reset();
  events.push_back({.kind = Event::Kind::kDown, .fault = fault});
}

// All at once: a peer chooses how many there are, and when they end.
void V1Session::forget_streams() {
  streams_.clear();
  ours_.clear();
  clients_.clear();
  servers_.clear();
  scheduler_ = Scheduler<V1Stream>(config_.quantum);
  control_ = {};
  waits_ = {};
  over_ = {};
  peek_ = false;
  held_ = borrowed_ = queued_ = 0;
}

// --- streams ----------------------------------------------------------------------------------

// Counts through all numbers before one is used again.
int32_t V1Session::draw_number() {
  do {
    next_number_ = next_number_ + 1 < kFirstNumber + kNumbers ? next_number_ + 1 : kFirstNumber;
  } while (ours_.contains(next_number_));
  return next_number_;
}

V1Stream* V1Session::find_ours(int32_t number, bool opener, uint32_t& slot) {
  const auto found = ours_.find(number);
  if (!found) return nullptr;
  V1Stream& stream = streams_.at(*found);
  if (stream.opener != opener) return nullptr;
  // A peer that names a number which was not sent to it guesses. A number of the earlier stream is
  // no guess.
  const bool told = stream.state == State::kOpen || stream.state == State::kInitSent;
  const bool due = stream.state == State::kConnecting || stream.state == State::kAckDue;
  if (!told && !(due && number != stream.ours)) return nullptr;
  slot = *found;
  return &stream;
}

StreamKey V1Session::add_stream(bool opener, Priority priority) {
  V1Stream stream;
  stream.ours = draw_number();
  stream.opener = opener;
  stream.priority = priority;
  stream.state = opener ? State::kInitDue : State::kConnecting;
  const StreamKey key = streams_.insert(stream);
  ours_.set(stream.ours, key.slot);
  return key;
}

std::optional<StreamKey> V1Session::open(std::string_view service, Priority priority,
                                         std::span<const std::byte>) {
  VP_ASSERT(!service.empty() && service.size() <= protocol_limits::kMaxService);
  if (!up_ || streams_.size() >= config_.limits.max_streams) return std::nullopt;
  const StreamKey key = add_stream(true, priority);
  V1Stream& stream = streams_.at(key.slot);
  std::memcpy(stream.service.data(), service.data(), service.size());
  stream.service_size = static_cast<uint8_t>(service.size());
  schedule(key.slot);
  return key;
}

void V1Session::accepted(StreamKey key) {
  V1Stream* stream = streams_.find(key);
  if (stream == nullptr || stream->state != State::kConnecting) return;
  stream->state = State::kAckDue;
  schedule(key.slot);
}

void V1Session::schedule(uint32_t slot) {
  V1Stream& stream = streams_.at(slot);
  if (stream.control_pending() && !stream.control_link.linked) control_.push_back(streams_, slot);
}

// Neither end may send before the ACK. An ACK that is due goes before the data.
uint64_t V1Session::request_credit(StreamKey key) {
  V1Stream* stream = streams_.find(key);
  if (stream == nullptr || stream->input_ended) return 0;
  const bool may_send = stream->state == State::kOpen || stream->state == State::kAckDue;
  const uint64_t credit = may_send ? kMostQueued - stream->queued : 0;
  stream->blocked = credit == 0 && stream->state != State::kClosed;
  return credit;
}

// The driver may have asked its socket for bytes before the stream was closed. They are dropped.
void V1Session::queue(StreamKey key, uint64_t bytes) {
  V1Stream* stream = streams_.find(key);
  if (stream == nullptr || stream->state == State::kClosed || stream->state == State::kBroken) {
    return;
  }
  VP_ASSERT(bytes > 0 && bytes <= kMostQueued - stream->queued && !stream->input_ended);
  VP_ASSERT(stream->state == State::kOpen || stream->state == State::kAckDue);
  stream->queued += bytes;
  queued_ += bytes;
  stream->spoke = true;
  stream->peer_spoke_last = false;
  scheduler_.add(streams_, key.slot);
}

void V1Session::end(StreamKey key) {
  V1Stream* stream = streams_.find(key);
  if (stream == nullptr) return;
  VP_ASSERT(!stream->input_ended);
  stream->input_ended = true;
  schedule(key.slot);
}

void V1Session::reset(StreamKey key, Fault fault, Events&) {
  V1Stream* stream = streams_.find(key);
  VP_ASSERT(fault != Fault::kNone && fault_row(fault).scope == FaultScope::kStream);
  if (stream == nullptr) return;
  if (stream->state != State::kClosed) say_close(*stream);
  detach(key.slot);
  erase_stream(key.slot);
}

// CLOSE ends both directions, but arrives behind what was written.
bool V1Session::delivers_before_reset(StreamKey key) {
  const V1Stream* stream = streams_.find(key);
  return stream != nullptr && stream->state != State::kClosed;
}

void V1Session::discard_input(StreamKey key) {
  V1Stream* stream = streams_.find(key);
  if (stream == nullptr) return;
  stream->discards = true;
  consume(*stream, stream->held());
}

bool V1Session::reset_after_data(StreamKey key, Events& events) {
  V1Stream* stream = streams_.find(key);
  if (stream == nullptr) return true;
  if (stream->queued == 0) {
    reset(key, Fault::kAborted, events);
    return false;
  }
  discard_input(key);
  stream->input_ended = stream->broke_off = true;
  return true;
}

void V1Session::consumed(StreamKey key, uint64_t bytes) {
  V1Stream* stream = streams_.find(key);
  if (stream == nullptr || stream->discards) return;
  consume(*stream, bytes);
}

// The only place where the held bytes of a live stream decrease. So the channel is read again as
// soon as no stream holds too much.
void V1Session::consume(V1Stream& stream, uint64_t bytes) {
  VP_ASSERT(bytes <= stream.held() && bytes <= held_);
  borrowed_ -= borrowed(stream);
  stream.consumed += bytes;
  borrowed_ += borrowed(stream);
  held_ -= bytes;
  review_over();
}

void V1Session::delivered(StreamKey key, Events& events) {
  V1Stream* stream = streams_.find(key);
  if (stream == nullptr) return;
  VP_ASSERT(stream->state == State::kClosed && stream->held() == 0);
  events.push_back({.kind = Event::Kind::kClosed, .stream = key});
  erase_stream(key.slot);
}

// --- the end of a stream ----------------------------------------------------------------------

// Sends CLOSE for the number by which the peer knows the stream. A stream that was not announced to
// the peer needs none, and one that it has not answered is closed when the answer comes.
void V1Session::say_close(const V1Stream& stream) {
  if (!stream.opener) {
    push_close(stream.theirs, -1);
  } else if (stream.state == State::kOpen || stream.state == State::kBroken) {
    push_close(-1, stream.theirs);
    note_closed(stream.theirs);
  }
}

bool V1Session::may_answer() const {
  return closes_.size() < config_.limits.max_streams + kSpareAnswers;
}

void V1Session::answer_close(int32_t client, int32_t server, Events& events) {
  if (!may_answer())
    return report_glitch(Glitch::kTooManyAnswers, client >= 0 ? client : server, events);
  push_close(client, server);
}

void V1Session::push_close(int32_t client, int32_t server) {
  closing_.set(client >= 0 ? client : server, first_close_ + static_cast<uint32_t>(closes_.size()));
  closes_.push_back({client, server});
}

// The number belongs to a new stream now, which CLOSE would hit.
void V1Session::withdraw_close(int32_t number) {
  const auto found = closing_.find(number);
  if (!found) return;
  closes_[*found - first_close_] = {-1, -1};
  closing_.erase(number);
}

// Removes a stream from every list and table.
void V1Session::detach(uint32_t slot) {
  V1Stream& stream = streams_.at(slot);
  scheduler_.remove(streams_, slot);
  if (stream.control_link.linked) control_.erase(streams_, slot);
  clear_wait(slot);
  end_over(slot);
  queued_ -= std::exchange(stream.queued, 0);
  const auto forget = [&](int32_t number) {
    if (ours_.find(number) == slot) ours_.erase(number);
  };
  forget(stream.ours);
  std::for_each_n(stream.aliases.begin(), stream.alias_count, forget);
  stream.alias_count = 0;
  NumberTable& by_theirs = stream.opener ? servers_ : clients_;
  if (by_theirs.find(stream.theirs) == slot) by_theirs.erase(stream.theirs);
}

// Both directions are over, and CLOSE was read or will be sent. What was received is delivered.
void V1Session::close_stream(uint32_t slot, Events& events) {
  if (streams_.at(slot).discards) return abort_stream(slot, Fault::kAborted, events);
  detach(slot);
  streams_.at(slot).state = State::kClosed;
  events.push_back({.kind = Event::Kind::kEnd, .stream = streams_.key_at(slot)});
}

void V1Session::abort_stream(uint32_t slot, Fault fault, Events& events) {
  events.push_back({.kind = Event::Kind::kReset,
                    .fault = fault,
                    .stream = streams_.key_at(slot),
                    .count = streams_.at(slot).theirs});
  detach(slot);
  erase_stream(slot);
}

void V1Session::break_stream(uint32_t slot, Instant now) {
  V1Stream& stream = streams_.at(slot);
  scheduler_.remove(streams_, slot);
  if (stream.control_link.linked) control_.erase(streams_, slot);
  end_over(slot);
  queued_ -= std::exchange(stream.queued, 0);
  stream.state = State::kBroken;
  set_wait(slot, Wait::kAbort, now);
}

void V1Session::erase_stream(uint32_t slot) {
  held_ -= streams_.at(slot).held();
  borrowed_ -= borrowed(streams_.at(slot));
  streams_.erase(streams_.key_at(slot));
  review_over();
}

void V1Session::report_glitch(Glitch glitch, int64_t count, Events& events) {
  events.push_back({.kind = Event::Kind::kGlitch, .glitch = glitch, .count = count});
}

// --- holding back -----------------------------------------------------------------------------

// A stream borrows what it holds beyond its promised window, as in version 2. It may borrow at most
// kShareOfRest times what is left for others.
bool V1Session::is_over(const V1Stream& stream) const {
  return stream.held() > config_.v1.hold ||
         borrowed(stream) > kShareOfRest * (capacity_ - std::min(capacity_, borrowed_));
}

uint64_t V1Session::borrowed(const V1Stream& stream) const {
  const uint64_t promised = config_.limits.initial_window;
  return stream.held() > promised ? stream.held() - promised : 0;
}

// When memory runs short, the streams that borrowed most are over, not those that came last.
void V1Session::check_over(uint32_t slot, Instant now) {
  V1Stream& stream = streams_.at(slot);
  if (!is_over(stream) || stream.over_link.linked) return;
  if (stream.held() > config_.v1.hold) return begin_over(slot, now);
  if (!over_.empty()) return;
  streams_.for_each([&](StreamKey key, const V1Stream& other) {
    if (borrowed(other) > borrowed(streams_.at(slot))) slot = key.slot;
  });
  begin_over(slot, now);
}

void V1Session::begin_over(uint32_t slot, Instant now) {
  if (over_.empty()) {
    check_at_ = now + config_.v1.stall_timeout / kChecks;
    peek_at_ = now + config_.v1.stall_timeout;
  }
  V1Stream& stream = streams_.at(slot);
  over_.push_back(streams_, slot);
  stream.over_since = now;
  stream.over_consumed = stream.consumed;
}

void V1Session::end_over(uint32_t slot) {
  if (streams_.at(slot).over_link.linked) over_.erase(streams_, slot);
  if (over_.empty()) peek_ = false;
}

// Called when less is held than before.
void V1Session::review_over() {
  for (uint32_t slot = over_.front(); slot != IndexLink::kNone;) {
    const V1Stream& stream = streams_.at(slot);
    const uint32_t next = stream.over_link.next;
    if (!is_over(stream)) end_over(slot);
    slot = next;
  }
}

// A reader that has consumed anything is slow, not stalled. A stalled stream that is alone keeps no
// other waiting, as far as this end can know: a little more of the channel is read, as long as
// there is memory, to see whether something lies behind its data. A stream that is closed and only
// being delivered does not need the channel any more.
void V1Session::check_stalls(Instant now, Events& events) {
  check_at_ = now + config_.v1.stall_timeout / kChecks;
  size_t sharing = 0;
  streams_.for_each(
      [&](StreamKey, const V1Stream& stream) { sharing += stream.state != State::kClosed; });
  for (uint32_t slot = over_.front(); slot != IndexLink::kNone;) {
    V1Stream& stream = streams_.at(slot);
    const bool closed = stream.state == State::kClosed;
    const bool alone = sharing == (closed ? 0 : 1) && held_ < config_.limits.receive_budget;
    if (alone && peek_at_ <= now) {
      peek_ = true;
      peek_at_ = now + config_.v1.stall_timeout;
    }
    if (alone || stream.consumed > stream.over_consumed) {
      stream.over_since = now;
      stream.over_consumed = stream.consumed;
    }
    if (now - stream.over_since < config_.v1.stall_timeout) {
      slot = stream.over_link.next;
      continue;
    }
    if (!closed) {
      say_close(stream);
      --sharing;
    }
    abort_stream(slot, Fault::kStalled, events);
    slot = over_.front();  // what is next may have left the list
  }
}

// --- time -------------------------------------------------------------------------------------

void V1Session::set_wait(uint32_t slot, Wait wait, Instant until) {
  clear_wait(slot);
  V1Stream& stream = streams_.at(slot);
  stream.wait = wait;
  stream.wait_until = until;
  list_of(wait).push_back(streams_, slot);
}

void V1Session::clear_wait(uint32_t slot) {
  V1Stream& stream = streams_.at(slot);
  if (stream.wait == Wait::kNothing) return;
  list_of(stream.wait).erase(streams_, slot);
  stream.wait = Wait::kNothing;
}

std::optional<Instant> V1Session::deadline() const {
  std::optional<Instant> at;
  const auto consider = [&at](Instant other) { at = at ? std::min(*at, other) : other; };
  for (const WaitList& list : waits_) {
    if (!list.empty()) consider(streams_.at(list.front()).wait_until);
  }
  if (!over_.empty()) consider(check_at_);
  return at;
}

void V1Session::tick(Instant now, Events& events) {
  if (!up_) return;
  unsigned left = kMostEndsAtOnce;
  for (WaitList& list : waits_) {
    for (; left > 0 && !list.empty() && streams_.at(list.front()).wait_until <= now; --left) {
      const uint32_t slot = list.front();
      const Wait wait = streams_.at(slot).wait;
      if (wait != Wait::kAck) say_close(streams_.at(slot));
      if (wait == Wait::kAck && !over_.empty()) {
        // It may have come, and not be read yet.
        set_wait(slot, Wait::kAck, now + config_.v1.ack_timeout);
      } else if (wait == Wait::kAck) {
        abort_stream(slot, Fault::kTimedOut, events);
      } else if (wait == Wait::kAbort) {
        abort_stream(slot, Fault::kAborted, events);
      } else {
        if (wait == Wait::kLeave && leaving_ > 0) --leaving_;
        close_stream(slot, events);
      }
    }
  }
  if (!over_.empty() && check_at_ <= now) check_stalls(now, events);
}

bool V1Session::behind(Instant now) const {
  return std::any_of(waits_.begin(), waits_.end(), [&](const WaitList& list) {
    return !list.empty() && streams_.at(list.front()).wait_until <= now;
  });
}

Session::Stats V1Session::stats() {
  Stats stats;
  stats.borrowed = borrowed_;
  stats.held = held_;
  stats.streams = streams_.size();
  stats.sessions = sessions_;
  stats.queued = queued_;
  return stats;
}

template class Scheduler<V1Stream>;

}  // namespace virtproxy
