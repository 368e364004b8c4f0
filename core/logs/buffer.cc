#include "core/logs/buffer.h"

#include <algorithm>

namespace virtproxy::logs {
namespace {

constexpr size_t kLeastMemory = 64u << 10;
// What all drop records of a gap need in a batch.
constexpr size_t kGapCost = kDropReasons * kMaxRecordOverhead;
// What a batch needs beside its records: the header, and what is kept of it outside.
constexpr size_t kBatchCost = kBatchHeaderSize + 768;
// A source with so many full batches, or a quarter of the memory, does not wait for its idle_at.
constexpr size_t kMostPaced = 8;

}  // namespace

Buffer::Buffer(const BufferConfig& config, std::vector<SourceConfig> sources) : config_(config) {
  config_.memory = std::max(config_.memory, kLeastMemory);
  config_.max_line =
      std::clamp<size_t>(config_.max_line, 1, std::min(kMaxLine, config_.memory / 4));
  config_.batch_size =
      std::clamp<size_t>(config_.batch_size, 1024, std::min(kMaxLine, config_.memory / 8));
  if (sources.size() > kMaxSources) sources.resize(kMaxSources);
  sources_.reserve(sources.size());
  for (SourceConfig& source : sources) {
    source.name.resize(std::min(source.name.size(), kMaxName));
    const auto index = static_cast<uint16_t>(sources_.size());
    Source& added = sources_.emplace_back(std::move(source), index);
    added.budget = added.config.block_for;
  }
}

size_t Buffer::closed_cost(const Closed& closed) {
  static_assert(sizeof(Closed) + kBatchHeaderSize <= kBatchCost);
  return closed.batch.bytes.size() - kBatchHeaderSize + kBatchCost;
}

size_t Buffer::open_cost(const Source& source) {
  return source.open.empty() ? 0 : source.open.size() - kBatchHeaderSize + kBatchCost;
}

// --- taking lines -----------------------------------------------------------------------------

Buffer::Admission Buffer::offer(uint16_t source_index, const Line& line, uint64_t full_length,
                                Instant now) {
  Source& source = sources_[source_index];
  full_length = std::max<uint64_t>(full_length, line.bytes.size());
  Line kept = line;
  kept.bytes = line.bytes.first(std::min(line.bytes.size(), config_.max_line));
  const size_t record =
      BatchBuilder::cost(kept.bytes.size()) + (source.tail_gap.empty() ? 0 : kGapCost);
  const size_t need = record + kBatchCost;
  if (source.config.full == Policy::kBlock && must_wait(source, need, now)) {
    return Admission::kBlocked;
  }
  source.received.add(1, full_length);
  if (used_ + need > config_.memory && !make_room(source, need)) {
    count_drop(source, {DropReason::kNewest, 0, 1, full_length, line.time, line.time});
    source.tail_gap.add({DropReason::kNewest, 0, 1, full_length, line.time, line.time});
    if (!source.since) source.since = now;
    return Admission::kTaken;
  }
  if (!source.open.empty() && source.open.size() + record > config_.batch_size) close(source);
  const size_t before = open_cost(source);
  put_tail_gap(source);
  Closed& facts = source.open_facts;
  if (source.open.empty()) facts.batch.first = source.open.mark();
  if (kept.bytes.size() < full_length) {
    const DropRecord cut{DropReason::kTooLarge, 0, 1, full_length, line.time, line.time};
    count_drop(source, cut);
    facts.drops.add(cut);
    source.open.add_head(kept, full_length);
  } else {
    if (facts.lines.lines == 0) facts.first_time = facts.last_time = line.time;
    facts.first_time = std::min(facts.first_time, line.time);
    facts.last_time = std::max(facts.last_time, line.time);
    facts.lines.add(1, full_length);
    source.open.add_line(kept);
  }
  charge(source, before, open_cost(source));
  if (!source.since) source.since = now;
  // Of the records there is room left for those of one gap.
  if (source.open.size() >= config_.batch_size ||
      source.open.records() + 1 + 2 * kDropReasons > kMaxRecords) {
    close(source);
  }
  return Admission::kTaken;
}

void Buffer::drop(uint16_t source_index, DropRecord record, Instant now) {
  if (record.count == 0) return;
  Source& source = sources_[source_index];
  record.last_time = std::max(record.first_time, record.last_time);
  source.received.add(record.count, record.bytes);
  count_drop(source, record);
  source.tail_gap.add(record);
  if (!source.since) source.since = now;
}

bool Buffer::must_wait(Source& source, size_t need, Instant now) {
  if (used_ <= config_.memory / 2) source.budget = source.config.block_for;
  const Duration waited = source.blocked_since ? now - *source.blocked_since : Duration::zero();
  if (!has_room(source, need) && waited < source.budget) {
    if (!source.blocked_since) source.blocked_since = now;
    return true;
  }
  source.budget -= std::min(waited, source.budget);
  source.blocked_since.reset();
  return false;
}

bool Buffer::has_room(const Source& source, size_t need) const {
  const size_t shared = config_.memory / 4 * 3;
  if (used_ + need <= shared) return true;
  if (source.used + need > shared / sources_.size()) return false;
  if (used_ + need <= config_.memory) return true;
  // Within its share it does not wait for others that hold more and may lose.
  size_t excess = 0;
  for (const Source& other : sources_) {
    if (other.config.full != Policy::kBlock && other.used > source.used) {
      excess += other.used - source.used;
    }
  }
  return excess >= need;
}

bool Buffer::unblocked(uint16_t source) const {
  const Source& of = sources_[source];
  return of.blocked_since &&
         has_room(of, BatchBuilder::cost(config_.max_line) + kGapCost + kBatchCost);
}

std::optional<Instant> Buffer::blocked_until(uint16_t source) const {
  const Source& of = sources_[source];
  if (!of.blocked_since) return std::nullopt;
  return *of.blocked_since + of.budget;
}

void Buffer::charge(Source& source, size_t before, size_t after) {
  source.used = source.used - before + after;
  used_ = used_ - before + after;
}

void Buffer::count_drop(Source& source, const DropRecord& record) {
  source.dropped[static_cast<size_t>(record.reason)].add(record.count, record.bytes);
}

void Buffer::put_tail_gap(Source& source) {
  if (source.tail_gap.empty()) return;
  if (source.open.empty()) source.open_facts.batch.first = source.open.mark();
  source.open_facts.drops.add(source.tail_gap);
  source.tail_gap.each(0, [&](const DropRecord& record) { source.open.add_drop(record); });
  source.tail_gap.clear();
}

void Buffer::close(Source& source) {
  const size_t before = open_cost(source);
  Closed closed = std::move(source.open_facts);
  source.open_facts = {};
  closed.batch.end = source.open.mark();
  closed.batch.source = static_cast<uint16_t>(&source - sources_.data());
  closed.batch.bytes = source.open.finish();
  charge(source, before, closed_cost(closed));
  source.closed.push_back(std::move(closed));
  source.since.reset();
}

// --- losing lines -----------------------------------------------------------------------------

bool Buffer::make_room(Source& source, size_t need) {
  while (used_ + need > config_.memory) {
    Source* longest = nullptr;
    for (Source& other : sources_) {
      const bool may_lose = other.config.full != Policy::kBlock || other.budget == Duration::zero();
      if (may_lose && other.used > source.used && (!longest || other.used > longest->used)) {
        longest = &other;
      }
    }
    if (longest && lose_by_policy(*longest)) continue;
    if (source.config.full != Policy::kDropOldest || !lose_oldest(source)) return false;
  }
  return true;
}

bool Buffer::lose_by_policy(Source& source) {
  return source.config.full == Policy::kDropOldest ? lose_oldest(source) : lose_newest(source);
}

bool Buffer::lose_oldest(Source& source) {
  if (source.closed.empty()) {
    if (source.open.empty()) return false;
    close(source);
    if (!source.tail_gap.empty()) source.since = Instant::zero();
  }
  const Closed& oldest = source.closed.front();
  if (source.head_gap.empty()) source.head = oldest.batch.first;
  lose(source, oldest, DropReason::kOldest, source.head_gap);
  charge(source, closed_cost(oldest), 0);
  source.closed.pop_front();
  return true;
}

bool Buffer::lose_newest(Source& source) {
  if (!source.open.empty()) {
    lose(source, source.open_facts, DropReason::kNewest, source.tail_gap);
    charge(source, open_cost(source), 0);
    source.open.rewind(source.open_facts.batch.first);
    source.open_facts = {};
  } else if (!source.closed.empty()) {
    const Closed& newest = source.closed.back();
    lose(source, newest, DropReason::kNewest, source.tail_gap);
    charge(source, closed_cost(newest), 0);
    source.open.rewind(newest.batch.first);
    source.closed.pop_back();
    source.since = Instant::zero();
  } else {
    return false;
  }
  return true;
}

void Buffer::lose(Source& source, const Closed& closed, DropReason reason, Gap& into) {
  into.add(closed.drops);
  const DropRecord record{
      reason, 0, closed.lines.lines, closed.lines.bytes, closed.first_time, closed.last_time};
  into.add(record);
  count_drop(source, record);
}

void Buffer::drop_all(Instant now) {
  for (Source& source : sources_) {
    while (!source.closed.empty() || !source.open.empty()) {
      if (source.closed.empty()) close(source);
      const Closed& oldest = source.closed.front();
      if (source.head_gap.empty()) source.head = oldest.batch.first;
      lose(source, oldest, DropReason::kShutdown, source.head_gap);
      charge(source, closed_cost(oldest), 0);
      source.closed.pop_front();
    }
    if (!source.tail_gap.empty() && !source.since) source.since = now;
  }
}

// --- giving batches ---------------------------------------------------------------------------

Instant Buffer::due_at(const Source& source, Traffic traffic) const {
  if (traffic == Traffic::kLast) return Instant::zero();
  if (!source.closed.empty()) {
    return paced(source, Instant::zero(), traffic) ? source.idle_at : Instant::zero();
  }
  if (!source.since) return Instant::zero();
  const Instant due = *source.since + config_.batch_delay;
  return traffic == Traffic::kIdle ? std::min(due, source.idle_at) : due;
}

bool Buffer::paced(const Source& source, Instant now, Traffic traffic) const {
  if (traffic != Traffic::kIdle || now >= source.idle_at) return false;
  return source.used < std::min(kMostPaced * config_.batch_size, config_.memory / 4);
}

Duration Buffer::interval(Instant now) {
  const Duration since = now - counted_since_;
  if (since >= config_.idle_interval) {
    busy_ = counted_ / config_.busy_bytes >= static_cast<size_t>(since / config_.idle_interval);
    counted_since_ = now;
    counted_ = 0;
  }
  return busy_ ? config_.busy_interval : config_.idle_interval;
}

std::optional<PendingBatch> Buffer::take(Instant now, Traffic traffic) {
  for (size_t i = 0; i < sources_.size(); ++i) {
    Source& source = sources_[next_];
    next_ = (next_ + 1) % sources_.size();
    if (!source.head_gap.empty()) return take_head_gap(source);
    if (!source.closed.empty()) {
      if (paced(source, now, traffic)) continue;
      // The open batch goes with them.
      if (traffic == Traffic::kIdle) source.idle_at = std::min(source.idle_at, now);
      return take_closed(source);
    }
    if (source.open.empty() && source.tail_gap.empty()) continue;
    if (now < due_at(source, traffic)) continue;
    source.idle_at = now + interval(now);
    const size_t before = open_cost(source);
    put_tail_gap(source);
    charge(source, before, open_cost(source));
    close(source);
    return take_closed(source);
  }
  return std::nullopt;
}

PendingBatch Buffer::take_head_gap(Source& source) {
  const auto index = static_cast<uint16_t>(&source - sources_.data());
  BatchBuilder builder(index, source.head);
  source.head_gap.each(0, [&](const DropRecord& record) { builder.add_drop(record); });
  source.head_gap.clear();
  PendingBatch batch{index, source.head, builder.mark(), {}};
  batch.bytes = builder.finish();
  return batch;
}

PendingBatch Buffer::take_closed(Source& source) {
  counted_ += source.closed.front().batch.bytes.size();
  charge(source, closed_cost(source.closed.front()), 0);
  PendingBatch batch = std::move(source.closed.front().batch);
  source.closed.pop_front();
  return batch;
}

std::optional<Instant> Buffer::due(Traffic traffic) const {
  std::optional<Instant> due;
  for (const Source& source : sources_) {
    std::optional<Instant> own;
    if (!source.head_gap.empty()) {
      own = Instant::zero();
    } else if (!source.closed.empty() || !source.open.empty() || !source.tail_gap.empty()) {
      own = due_at(source, traffic);
    }
    if (own && (!due || *own < *due)) due = own;
  }
  return due;
}

bool Buffer::empty() const { return !due(Traffic::kLast); }

Mark Buffer::mark(uint16_t source) const {
  Mark mark = sources_[source].open.mark();
  const Tally& gap = sources_[source].tail_gap.total();
  return {mark.seq + gap.lines, mark.bytes + gap.bytes};
}

}  // namespace virtproxy::logs
