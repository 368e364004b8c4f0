#include "core/logs/receiver.h"

#include <algorithm>

#include "core/wire/little_endian.h"

namespace virtproxy::logs {
namespace {

// How many bytes the item that begins with `bytes` needs, as far as they tell.
struct Need {
  size_t size = 0;
  bool whole = false;  // `size` is that of the item
  StreamFault fault = StreamFault::kNone;
};

Need need_of(std::span<const std::byte> bytes) {
  if (bytes.size() < kMessageHeaderSize) return {kMessageHeaderSize, false, StreamFault::kNone};
  if (load_le<uint32_t>(bytes.data()) == kBatchMagic) {
    BatchHeader header;
    const BatchFault fault = decode_batch_header(bytes, header);
    if (fault == BatchFault::kShort) return {kBatchHeaderSize, false, StreamFault::kNone};
    return {header.size(), true, stream_fault(fault)};
  }
  MessageHeader header;
  const MessageFault fault = decode_message_header(bytes, header);
  return {header.size(), true, stream_fault(fault)};
}

}  // namespace

bool SourceAccount::balanced() const {
  Tally sum = sum_of(dropped);
  sum.add(delivered.lines, delivered.bytes);
  sum.add(unaccounted.lines, unaccounted.bytes);
  return next.seq - base.seq == sum.lines && next.bytes - base.bytes == sum.bytes;
}

bool SourceAccount::reject(const Tally& lines) {
  if (delivered.lines < lines.lines || delivered.bytes < lines.bytes) return false;
  delivered.lines -= lines.lines;
  delivered.bytes -= lines.bytes;
  dropped[static_cast<size_t>(DropReason::kRejected)].add(lines.lines, lines.bytes);
  return true;
}

void Receiver::lost() {
  begun_ = final_ = false;
  in_.clear();
  whole_.clear();
  out_.clear();
}

StreamFault Receiver::feed(std::span<const std::byte> bytes, std::vector<Received>& found) {
  StreamFault fault = StreamFault::kNone;
  // What began in an earlier call is completed first.
  while (!in_.empty() && fault == StreamFault::kNone) {
    const Need need = need_of(in_);
    fault = need.fault;
    if (fault != StreamFault::kNone) break;
    if (in_.size() == need.size) {
      // A header alone is never a whole item.
      whole_.swap(in_);
      in_.clear();
      std::span<const std::byte> rest(whole_);
      fault = take(rest, found);
      break;
    }
    const size_t more = std::min(need.size - in_.size(), bytes.size());
    if (more == 0) return fault;
    in_.insert(in_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(more));
    bytes = bytes.subspan(more);
  }
  while (fault == StreamFault::kNone && !bytes.empty()) {
    const Need need = need_of(bytes);
    fault = need.fault;
    if (fault != StreamFault::kNone) break;
    if (!need.whole || bytes.size() < need.size) {
      in_.assign(bytes.begin(), bytes.end());
      break;
    }
    fault = take(bytes, found);
  }
  if (fault != StreamFault::kNone) lost();
  return fault;
}

StreamFault Receiver::take(std::span<const std::byte>& rest, std::vector<Received>& found) {
  StreamFault fault = StreamFault::kNone;
  if (load_le<uint32_t>(rest.data()) == kBatchMagic) {
    BatchHeader header;
    decode_batch_header(rest, header);
    fault = take_batch(rest.first(header.size()), header, found);
    rest = rest.subspan(header.size());
  } else {
    MessageHeader header;
    decode_message_header(rest, header);
    fault = take_message(rest.first(header.size()), header, found);
    rest = rest.subspan(header.size());
  }
  return fault;
}

StreamFault Receiver::take_message(std::span<const std::byte> bytes, const MessageHeader& header,
                                   std::vector<Received>& found) {
  if (header.type == MessageType::kHello) {
    Hello hello;
    if (const auto bad = decode(bytes, header, hello); bad != MessageFault::kNone) {
      return stream_fault(bad);
    }
    return on_hello(hello, found);
  }
  if (header.type != MessageType::kState) return StreamFault::kBadType;
  State state;
  if (const auto bad = decode(bytes, header, state); bad != MessageFault::kNone) {
    return stream_fault(bad);
  }
  return on_state(state, found);
}

StreamFault Receiver::on_hello(const Hello& hello, std::vector<Received>& found) {
  if (hello.version != kVersion) return StreamFault::kBadVersion;
  // Logs of one stream follow one another.
  if (begun_ && !accounts_.back().finished) return StreamFault::kOutOfTurn;
  const auto known = find_log(accounts_, hello.log);
  Want want;
  want.known = known != accounts_.end();
  if (want.known) {
    if (known->sources.size() != hello.sources.size()) return StreamFault::kBadNumbers;
    std::rotate(known, known + 1, accounts_.end());
  } else {
    if (accounts_.size() >= max_logs_) forget_oldest(found);
    LogAccount& log = accounts_.emplace_back();
    log.id = hello.log;
    log.position = hello.position;
    for (const HelloSource& source : hello.sources) {
      SourceAccount& account = log.sources.emplace_back();
      account.base = account.next = account.known = source.acked;
    }
  }
  LogAccount& log = accounts_.back();
  log.boot = hello.boot;
  for (size_t i = 0; i < log.sources.size(); ++i) {
    SourceAccount& source = log.sources[i];
    source.name = hello.sources[i].name;
    if (source.known.seq < hello.sources[i].start.seq) source.known = hello.sources[i].start;
    want.marks.push_back(source.next);
  }
  begun_ = true;
  final_ = false;
  key_ = check_key(log.id);
  want.log = log.id.low;
  want.finished = log.finished;
  want.position = log.position;
  encode(want, out_);
  found.push_back({Received::Kind::kBegun, 0, {}});
  return StreamFault::kNone;
}

void Receiver::forget_oldest(std::vector<Received>& found) {
  const LogAccount& log = accounts_.front();
  Received received{Received::Kind::kForgotten, 0, {}};
  received.record.kind = Record::Kind::kDrop;
  for (const SourceAccount& source : log.sources) {
    if (log.finished || !in_order(source.next, source.known)) continue;
    // A sender may claim so much of each source that the sum would be no number of the protocol.
    uint64_t& count = received.record.drop.count;
    uint64_t& bytes = received.record.drop.bytes;
    count = std::min(kMaxNumber, count + (source.known.seq - source.next.seq));
    bytes = std::min(kMaxNumber, bytes + (source.known.bytes - source.next.bytes));
  }
  if (received.record.drop.count > 0) found.push_back(received);
  accounts_.erase(accounts_.begin());
}

StreamFault Receiver::on_state(const State& state, std::vector<Received>& found) {
  if (!begun_ || final_ || accounts_.back().finished) return StreamFault::kOutOfTurn;
  LogAccount& log = accounts_.back();
  if (state.log != log.id.low || state.marks.size() != log.sources.size()) {
    return StreamFault::kBadNumbers;
  }
  for (size_t i = 0; i < log.sources.size(); ++i) {
    SourceAccount& source = log.sources[i];
    if (source.known.seq < state.marks[i].seq) source.known = state.marks[i];
  }
  if (!state.final) return StreamFault::kNone;
  for (size_t i = 0; i < log.sources.size(); ++i) {
    SourceAccount& source = log.sources[i];
    if (source.next.seq >= source.known.seq) continue;
    if (!in_order(source.next, source.known)) return StreamFault::kBadNumbers;
    leave_out(source, static_cast<uint16_t>(i), source.known, found);
  }
  final_ = true;
  found.push_back({Received::Kind::kFinal, 0, {}});
  return StreamFault::kNone;
}

StreamFault Receiver::take_batch(std::span<const std::byte> bytes, const BatchHeader& header,
                                 std::vector<Received>& found) {
  if (!begun_ || final_ || accounts_.back().finished) return StreamFault::kOutOfTurn;
  LogAccount& log = accounts_.back();
  if (header.log != log.id.low || header.source >= log.sources.size()) {
    return StreamFault::kBadNumbers;
  }
  BatchHeader again;
  BatchExtent extent;
  if (const auto bad = open_batch(bytes, key_, again, extent); bad != BatchFault::kNone) {
    return stream_fault(bad);
  }
  SourceAccount& source = log.sources[header.source];
  RecordReader reader(bytes, header);
  for (;;) {
    const Mark before = reader.mark();
    Record record;
    if (reader.next(record) != RecordReader::Step::kRecord) break;
    const auto fault = on_record(source, header.source, before, reader.mark(), record, found);
    if (fault != StreamFault::kNone) return fault;
  }
  log.skipped += extent.skipped;
  if (source.known.seq < source.next.seq) source.known = source.next;
  if (!header.floating()) log.position = std::max(log.position, header.end_position());
  return StreamFault::kNone;
}

StreamFault Receiver::on_record(SourceAccount& source, uint16_t index, const Mark& before,
                                const Mark& after, Record& record, std::vector<Received>& found) {
  if (after.seq <= source.next.seq) {
    source.duplicates += after.seq - before.seq;
    return StreamFault::kNone;
  }
  if (before.seq > source.next.seq) {
    if (!in_order(source.next, before)) return StreamFault::kBadNumbers;
    leave_out(source, index, before, found);
  } else if (before.seq < source.next.seq) {
    // Only drop records cover several numbers. What is accounted for already stays as it is.
    if (after.bytes < source.next.bytes) return StreamFault::kBadNumbers;
    source.duplicates += source.next.seq - before.seq;
    record.drop.first = source.next.seq;
    record.drop.count = after.seq - source.next.seq;
    record.drop.bytes = after.bytes - source.next.bytes;
  } else if (before.bytes != source.next.bytes) {
    return StreamFault::kBadNumbers;
  }
  source.next = after;
  Received received{Received::Kind::kLine, index, record};
  if (record.kind == Record::Kind::kLine) {
    source.delivered.add(1, record.line.bytes.size());
  } else {
    source.dropped[static_cast<size_t>(record.drop.reason)].add(record.drop.count,
                                                                record.drop.bytes);
    received.kind =
        record.kind == Record::Kind::kHead ? Received::Kind::kHead : Received::Kind::kDrop;
  }
  found.push_back(received);
  return StreamFault::kNone;
}

void Receiver::leave_out(SourceAccount& source, uint16_t index, const Mark& until,
                         std::vector<Received>& found) {
  Received received{Received::Kind::kUnaccounted, index, {}};
  received.record.kind = Record::Kind::kDrop;
  received.record.seq = received.record.drop.first = source.next.seq;
  received.record.drop.count = until.seq - source.next.seq;
  received.record.drop.bytes = until.bytes - source.next.bytes;
  source.unaccounted.add(received.record.drop.count, received.record.drop.bytes);
  source.next = until;
  found.push_back(received);
}

void Receiver::acknowledge(uint64_t position, AckLevel level) {
  if (!begun_ || accounts_.back().finished) return;
  encode(Ack{accounts_.back().id.low, position, level, false}, out_);
}

void Receiver::acknowledge_final(AckLevel level) {
  if (!begun_ || !final_ || accounts_.back().finished) return;
  accounts_.back().finished = true;
  encode(Ack{accounts_.back().id.low, accounts_.back().position, level, true}, out_);
}

bool Receiver::reject(const LogId& log, uint16_t source, uint64_t seq, uint64_t bytes) {
  const auto account = find_log(accounts_, log);
  if (account == accounts_.end() || source >= account->sources.size()) return false;
  if (!account->sources[source].reject({1, bytes})) return false;
  const bool current = begun_ && &*account == &accounts_.back();
  if (current && !account->finished) encode(Reject{log.low, source, seq, 1, bytes}, out_);
  return true;
}

}  // namespace virtproxy::logs
