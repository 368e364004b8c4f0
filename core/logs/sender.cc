#include "core/logs/sender.h"

#include <algorithm>

namespace virtproxy::logs {

void Sender::begin(LogDescription log) {
  log_ = std::move(log);
  key_ = check_key(log_.id);
  position_ = most_ack_ = acked_position_ = log_.position;
  least_ack_ = 0;
  sent_.clear();
  acked_.clear();
  for (const HelloSource& source : log_.sources) {
    sent_.push_back(source.acked);
    acked_.push_back(source.acked);
  }
  time_ = log_.time;
  unacked_.clear();
  in_flight_ = 0;
  explained_ = {};
  encode(Hello{kVersion, log_.id, log_.boot, log_.position, log_.sources}, out_);
  phase_ = Phase::kGreeting;
}

void Sender::lost() {
  phase_ = Phase::kDown;
  unacked_.clear();
  in_flight_ = 0;
  in_.clear();
  out_.clear();
}

StreamFault Sender::feed(std::span<const std::byte> bytes) {
  in_.insert(in_.end(), bytes.begin(), bytes.end());
  std::span<const std::byte> rest(in_);
  StreamFault fault = StreamFault::kNone;
  while (fault == StreamFault::kNone) {
    MessageHeader header;
    const MessageFault found = decode_message_header(rest, header);
    if (found == MessageFault::kShort) break;
    fault = stream_fault(found);
    if (fault != StreamFault::kNone || rest.size() < header.size()) break;
    fault = take(rest.first(header.size()), header);
    rest = rest.subspan(header.size());
  }
  if (fault != StreamFault::kNone) {
    lost();
    return fault;
  }
  in_.erase(in_.begin(), in_.end() - static_cast<ptrdiff_t>(rest.size()));
  return fault;
}

StreamFault Sender::take(std::span<const std::byte> bytes, const MessageHeader& header) {
  if (phase_ == Phase::kDown) return StreamFault::kOutOfTurn;
  switch (header.type) {
    case MessageType::kWant: {
      Want want;
      if (const auto bad = decode(bytes, header, want); bad != MessageFault::kNone) {
        return stream_fault(bad);
      }
      return on_want(want);
    }
    case MessageType::kAck: {
      Ack ack;
      if (const auto bad = decode(bytes, header, ack); bad != MessageFault::kNone) {
        return stream_fault(bad);
      }
      return on_ack(ack);
    }
    case MessageType::kReject: {
      Reject reject;
      if (const auto bad = decode(bytes, header, reject); bad != MessageFault::kNone) {
        return stream_fault(bad);
      }
      // It was on its way when the log before was completed.
      if (reject.log != log_.id.low) return StreamFault::kNone;
      if (reject.source >= sent_.size()) return StreamFault::kBadNumbers;
      explained_[static_cast<size_t>(DropReason::kRejected)].add(reject.count, reject.bytes);
      return StreamFault::kNone;
    }
    case MessageType::kHello:
    case MessageType::kState:
      break;
  }
  return StreamFault::kBadType;
}

StreamFault Sender::on_want(const Want& want) {
  if (phase_ != Phase::kGreeting) return StreamFault::kOutOfTurn;
  if (want.log != log_.id.low || want.marks.size() != sent_.size()) {
    return StreamFault::kBadNumbers;
  }
  phase_ = Phase::kSending;
  if (want.finished) {
    phase_ = Phase::kFinished;
    return StreamFault::kNone;
  }
  if (!want.known) {
    for (size_t i = 0; i < sent_.size(); ++i) sent_[i] = log_.sources[i].acked;
  } else {
    position_ = std::max(position_, std::min(want.position, log_.end));
    most_ack_ = std::max(position_, want.position);
    for (size_t i = 0; i < sent_.size(); ++i) {
      // A receiver that asks for what it acknowledged has lost it. Nothing is left to explain that
      // with: the receiver finds the numbers unaccounted for, as they are.
      if (sent_[i].seq > want.marks[i].seq) continue;
      if (!in_order(sent_[i], want.marks[i])) return StreamFault::kBadNumbers;
      sent_[i] = want.marks[i];
    }
    take_for_sent(want);
  }
  for (size_t i = 0; i < sent_.size(); ++i) {
    explain_source(static_cast<uint16_t>(i), log_.sources[i].start, log_.missing, log_.time);
  }
  return StreamFault::kNone;
}

// The receiver may have more of a log whose end was lost with the power.
void Sender::take_for_sent(const Want& want) {
  if (log_.stored.size() != want.marks.size() || want.position > log_.end) return;
  for (size_t i = 0; i < want.marks.size(); ++i) {
    if (!in_order(want.marks[i], log_.stored[i])) return;
  }
  for (size_t i = 0; i < want.marks.size(); ++i) {
    note_sent(want.position, static_cast<uint16_t>(i), 0, want.marks[i]);
  }
  least_ack_ = want.position;
}

StreamFault Sender::on_ack(const Ack& ack) {
  if (phase_ != Phase::kSending && phase_ != Phase::kFinishing) return StreamFault::kOutOfTurn;
  if (ack.log != log_.id.low || ack.position > std::max(position_, most_ack_)) {
    return StreamFault::kBadNumbers;
  }
  if (ack.final && phase_ != Phase::kFinishing) return StreamFault::kOutOfTurn;
  if (!ack.final && ack.position < least_ack_) return StreamFault::kNone;
  acked_position_ = std::max(acked_position_, std::min(ack.position, position_));
  acked_level_ = ack.level;
  while (!unacked_.empty() && (ack.final || unacked_.front().end <= acked_position_)) {
    const Sent& sent = unacked_.front();
    note_acked(sent.source, sent.mark);
    in_flight_ -= sent.size;
    unacked_.pop_front();
  }
  if (ack.final) {
    acked_position_ = position_;
    phase_ = Phase::kFinished;
  }
  return StreamFault::kNone;
}

void Sender::send(std::span<const std::byte> batch, const BatchHeader& header, const Mark& end) {
  if (phase_ != Phase::kSending || header.log != log_.id.low || header.source >= sent_.size()) {
    return;
  }
  Mark& sent = sent_[header.source];
  explain_source(header.source, header.first, DropReason::kCorrupt, header.time);
  out_.insert(out_.end(), batch.begin(), batch.end());
  position_ = std::max(position_, header.end_position());
  time_ = header.time;
  if (sent.seq < end.seq) sent = end;
  note_sent(header.end_position(), header.source, batch.size(), end);
}

void Sender::had(const BatchHeader& header, const Mark& end) {
  if (header.log != log_.id.low || header.source >= acked_.size()) return;
  if (phase_ == Phase::kFinished || header.end_position() <= acked_position_) {
    note_acked(header.source, end);
  } else {
    note_sent(header.end_position(), header.source, 0, end);
  }
}

void Sender::note_acked(uint16_t source, const Mark& mark) {
  if (acked_[source].seq < mark.seq) acked_[source] = mark;
}

void Sender::explain(std::span<const Mark> marks, DropReason reason, UnixTime time) {
  for (size_t i = 0; i < std::min(marks.size(), sent_.size()); ++i) {
    explain_source(static_cast<uint16_t>(i), marks[i], reason, time);
  }
}

void Sender::explain_source(uint16_t source, const Mark& until, DropReason reason, UnixTime time) {
  Mark& sent = sent_[source];
  if (until.seq <= sent.seq || until.bytes < sent.bytes) return;
  DropRecord record;
  record.reason = reason;
  record.count = until.seq - sent.seq;
  record.bytes = until.bytes - sent.bytes;
  record.first_time = std::min(time_, time);
  record.last_time = std::max(time_, time);
  BatchBuilder builder(source, sent);
  builder.add_drop(record);
  std::vector<std::byte> batch = builder.finish(kFloating);
  seal_batch(batch, log_.id, key_, position_);
  out_.insert(out_.end(), batch.begin(), batch.end());
  explained_[static_cast<size_t>(reason)].add(record.count, record.bytes);
  sent = until;
  // Only a position behind the next stored batch proves that the receiver has this one.
  note_sent(position_ + 1, source, batch.size(), sent);
}

void Sender::note_sent(uint64_t end, uint16_t source, size_t size, const Mark& mark) {
  unacked_.push_back({end, source, size, mark});
  in_flight_ += size;
}

void Sender::send_state(std::span<const Mark> marks) {
  if (phase_ != Phase::kSending) return;
  encode(State{log_.id.low, false, {marks.begin(), marks.end()}}, out_);
}

void Sender::finish(std::span<const Mark> marks, UnixTime time) {
  if (phase_ != Phase::kSending) return;
  explain(marks, DropReason::kCorrupt, time);
  // The receiver may have more than the sender could read again.
  State state{log_.id.low, true, {marks.begin(), marks.end()}};
  encode(state, out_);
  phase_ = Phase::kFinishing;
}

}  // namespace virtproxy::logs
