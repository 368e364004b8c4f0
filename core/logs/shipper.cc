#include "core/logs/shipper.h"

#include <algorithm>

namespace virtproxy::logs {

Shipper::Shipper(const ShipperConfig& config, std::vector<SourceConfig> sources, const LogId& log,
                 const LogId& boot, std::optional<SpoolStart> spool)
    : config_(config),
      log_(log),
      boot_(boot),
      key_(check_key(log)),
      buffer_(config.buffer, std::move(sources)),
      sender_(config.window),
      acked_(buffer_.sources()) {
  if (!spool) return;
  std::vector<std::string> names;
  for (size_t i = 0; i < buffer_.sources(); ++i) {
    names.push_back(buffer_.name(static_cast<uint16_t>(i)));
  }
  spool_.emplace(spool->config, spool->recovered, log, boot, std::move(names));
  reader_.emplace(*spool_);
}

std::vector<Mark> Shipper::numbered() const {
  std::vector<Mark> marks;
  for (size_t i = 0; i < buffer_.sources(); ++i) {
    marks.push_back(buffer_.mark(static_cast<uint16_t>(i)));
  }
  return marks;
}

void Shipper::connected(Instant now) {
  connected_ = true;
  state_due_ = now + config_.state_interval;
}

void Shipper::disconnected() {
  connected_ = false;
  sender_.lost();
  source_ = Source::kNone;
  unsent_ = kept_.size();
  positioned_ = false;
  reading_ = false;
  stale_read_ = read_given_;
}

uint64_t Shipper::acknowledged(uint16_t source) const {
  if (!spool_) return sender_.log().id == log_ ? sender_.acked()[source].seq : 0;
  return spool_->logs().size() == 1 ? spool_->acked()[source].seq : 0;
}

StreamFault Shipper::feed(std::span<const std::byte> bytes) {
  const StreamFault fault = sender_.feed(bytes);
  on_acknowledged();
  if (fault != StreamFault::kNone) disconnected();
  return fault;
}

void Shipper::on_acknowledged() {
  if (source_ != Source::kSending) return;
  if (spool_) {
    if (sender_.log().id != spool_->logs().front().id) return;
    spool_->acknowledge(sender_.acked_position(), sender_.acked());
    return;
  }
  const bool finished = sender_.phase() == Sender::Phase::kFinished;
  // What lies before the position that the receiver wants, it has. Its acknowledgement may come in
  // the same piece as WANT, and is the last one if nothing else is kept.
  for (; unsent_ > 0; --unsent_) {
    const Kept& kept = kept_[kept_.size() - unsent_];
    if (!finished && kept.header.end_position() > sender_.position()) break;
    sender_.had(kept.header, kept.end);
  }
  acked_ = sender_.acked();
  while (kept_.size() > unsent_ &&
         (kept_.front().header.end_position() <= sender_.acked_position() || finished)) {
    kept_bytes_ -= kept_.front().bytes.size();
    kept_.pop_front();
  }
}

void Shipper::pump(Instant now, UnixTime wall) {
  wall_ = wall;
  if (spool_) fill_spool(now, wall);
  if (!connected_) return;
  const size_t before = sender_.out().size();
  if (spool_) {
    send_spool(wall);
  } else {
    send_memory(now);
  }
  if (sender_.out().size() > before) {
    state_due_ = now + config_.state_interval;
  } else if (now >= *state_due_) {
    // Of a log of an earlier start, the end is what tells how far it went.
    if (sender_.log().id == log_) sender_.send_state(numbered());
    state_due_ = now + config_.state_interval;
  }
}

std::optional<Instant> Shipper::due(Instant now) const {
  std::optional<Instant> due = connected_ ? state_due_ : std::nullopt;
  const bool takes = spool_ ? !waiting_ : sender_.may_send();
  if (const auto of_buffer = buffer_.due(traffic()); takes && of_buffer) {
    due = due ? std::min(*due, std::max(now, *of_buffer)) : std::max(now, *of_buffer);
  }
  return due;
}

Buffer::Traffic Shipper::traffic() const {
  if (stopping_) return Buffer::Traffic::kLast;
  const bool idle = spool_ ? !spool_->write_under_way() : sender_.out().empty();
  return idle ? Buffer::Traffic::kIdle : Buffer::Traffic::kBusy;
}

void Shipper::stop(bool give_up, Instant now) {
  stopping_ = true;
  if (give_up && !spool_) buffer_.drop_all(now);
}

bool Shipper::stopped() const {
  if (!stopping_ || !buffer_.empty()) return false;
  if (spool_) {
    return !waiting_ && !spool_->write_under_way() &&
           spool_->written_position() == spool_->appended_position();
  }
  return sender_.phase() == Sender::Phase::kFinished;
}

// --- without a spool --------------------------------------------------------------------------

void Shipper::begin_memory_log() {
  LogDescription log{log_,      boot_, kept_.empty() ? position_ : kept_.front().header.position,
                     position_, {},    DropReason::kOldest,
                     wall_};
  for (size_t i = 0; i < buffer_.sources(); ++i) {
    log.sources.push_back({buffer_.name(static_cast<uint16_t>(i)), acked_[i], acked_[i]});
  }
  sender_.begin(std::move(log));
  source_ = Source::kSending;
  unsent_ = kept_.size();
}

void Shipper::send_memory(Instant now) {
  if (source_ == Source::kNone) begin_memory_log();
  if (sender_.phase() != Sender::Phase::kSending) return;
  while (sender_.may_send() && sender_.out().size() < config_.window) {
    if (unsent_ > 0) {
      const Kept& kept = kept_[kept_.size() - unsent_];
      sender_.send(kept.bytes, kept.header, kept.end);
      --unsent_;
      continue;
    }
    if (kept_bytes_ >= config_.window) return;
    auto batch = buffer_.take(now, traffic());
    if (!batch) break;
    Kept kept;
    kept.bytes = std::move(batch->bytes);
    seal_batch(kept.bytes, log_, key_, position_);
    decode_batch_header(kept.bytes, kept.header);
    kept.end = batch->end;
    position_ = kept.header.end_position();
    kept_bytes_ += kept.bytes.size();
    kept_.push_back(std::move(kept));
    unsent_ = 1;
  }
  if (stopping_ && buffer_.empty() && unsent_ == 0) sender_.finish(numbered(), wall_);
}

// --- with a spool -----------------------------------------------------------------------------

void Shipper::fill_spool(Instant now, UnixTime wall) {
  for (;;) {
    if (!waiting_) {
      waiting_ = buffer_.take(now, traffic());
    }
    if (!waiting_ || !spool_->append(*waiting_, wall)) return;
    waiting_.reset();
  }
}

uint64_t Shipper::end_of_first_log() const {
  return spool_->logs().size() > 1 ? spool_->logs()[1].first : spool_->next();
}

// Why numbers are missing that lie before the oldest segment that is left. Where everything up to it
// is acknowledged, no segment was given up: they were never on the disk.
DropReason Shipper::missing_before(uint64_t segment) const {
  const bool acknowledged =
      spool_->acked_position() >= segment * spool_->geometry().segment_size;
  return acknowledged ? DropReason::kCorrupt : DropReason::kOldest;
}

void Shipper::begin_spool_log() {
  const SpoolLog& first = spool_->logs().front();
  const uint64_t segment = std::max(first.first, spool_->tail());
  if (segment >= end_of_first_log()) {
    // None of it is stored: nothing yet, or nothing any more.
    describe_spool_log(nullptr, missing_before(segment));
    return;
  }
  source_ = Source::kOpening;
  opening_ = segment;
  reader_->seek(segment * spool_->geometry().segment_size);
}

void Shipper::describe_spool_log(const SegmentHeader* header, DropReason missing) {
  const SpoolLog& first = spool_->logs().front();
  LogDescription log{first.id, first.boot, spool_->acked_position(), 0, {}, missing, wall_};
  log.position =
      std::max(log.position, header ? header->index * spool_->geometry().segment_size
                                    : end_of_first_log() * spool_->geometry().segment_size);
  log.end = end_of_first_log() * spool_->geometry().segment_size;
  log.stored = first.marks;
  if (header) log.time = header->time;
  for (size_t i = 0; i < first.marks.size(); ++i) {
    HelloSource source;
    if (i < spool_->acked().size()) source.acked = spool_->acked()[i];
    Mark start = first.marks[i];
    if (header) start = i < header->sources.size() ? header->sources[i].start : Mark{};
    source.start = in_order(source.acked, start) ? start : source.acked;
    if (header && i < header->sources.size()) source.name = header->sources[i].name;
    if (first.id == log_) source.name = buffer_.name(static_cast<uint16_t>(i));
    log.sources.push_back(std::move(source));
  }
  sender_.begin(std::move(log));
  source_ = Source::kSending;
  positioned_ = false;
}

void Shipper::send_spool(UnixTime wall) {
  if (sender_.phase() == Sender::Phase::kFinished && source_ == Source::kSending) {
    if (!spool_->finish_first_log()) return;
    source_ = Source::kNone;
  }
  if (source_ == Source::kNone) begin_spool_log();
  if (source_ == Source::kSending && sender_.phase() == Sender::Phase::kSending && !positioned_) {
    positioned_ = true;
    reader_->seek(sender_.position());
  }
  while (source_ == Source::kOpening ||
         (sender_.may_send() && sender_.out().size() < config_.window)) {
    if (reading_ || stale_read_) return;
    const auto step = reader_->step();
    if (step == SpoolReader::Step::kRead) {
      reading_ = true;
      return;
    }
    const uint64_t size = spool_->geometry().segment_size;
    const bool ended = reader_->position() / size >= end_of_first_log() ||
                       (step == SpoolReader::Step::kSegment &&
                        reader_->segment().log != spool_->logs().front().id);
    if (source_ == Source::kOpening) {
      if (step == SpoolReader::Step::kSegment && !ended) {
        const SegmentHeader& header = reader_->segment();
        describe_spool_log(&header, header.index == opening_ ? missing_before(opening_)
                                                             : reader_->missing());
      } else if (ended) {
        describe_spool_log(nullptr, DropReason::kCorrupt);
      }
      return;
    }
    if (ended && spool_->logs().size() > 1) {
      sender_.finish(spool_->logs().front().marks, wall);
      return;
    }
    if (step == SpoolReader::Step::kWait) break;
    if (step == SpoolReader::Step::kSegment) {
      sender_.explain(reader_->segment().starts(), reader_->missing(), reader_->segment().time);
    } else {
      sender_.send(reader_->batch(), reader_->header(), reader_->end());
    }
  }
  spool_->passed(reader_->position());
}

std::optional<SpoolRead> Shipper::next_read() {
  if (!reading_ || read_given_) return std::nullopt;
  read_given_ = true;
  return reader_->next_read();
}

void Shipper::read(std::span<const std::byte> bytes) {
  read_given_ = false;
  if (!stale_read_ && reading_) reader_->read(bytes);
  stale_read_ = reading_ = false;
}

}  // namespace virtproxy::logs
