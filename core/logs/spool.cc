#include "core/logs/spool.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace virtproxy::logs {
namespace {

// What is kept of a write beside its bytes, about.
constexpr size_t kRecentCost = 256;

}  // namespace

Spool::Spool(const SpoolConfig& config, const Superblock& recovered, const LogId& log,
             const LogId& boot, std::vector<std::string> names)
    : config_(config), state_(recovered), names_(std::move(names)), key_(check_key(log)) {
  state_.geometry = config.geometry;
  names_.resize(std::clamp<size_t>(names_.size(), 1, kMaxSources));
  // A log of which nothing was written needs no place.
  while (!state_.logs.empty() && state_.logs.back().first == state_.next) state_.logs.pop_back();
  state_.logs.push_back({log, boot, state_.next, std::vector<Mark>(names_.size())});
  if (state_.logs.size() == 1) start_first_log();
  appended_position_ = written_position_ = synced_position_ =
      state_.next * config_.geometry.segment_size;
}

bool Spool::fits_segment(size_t size) const {
  const uint64_t used = appended_position_ % config_.geometry.segment_size;
  return segment_open_ && used > 0 && used + size <= config_.geometry.segment_size;
}

bool Spool::may_begin_segment() const {
  // The last one of kMaxSpoolLogs logs waits until an earlier one is delivered.
  if (state_.logs.size() > kMaxSpoolLogs) return false;
  return state_.next - state_.tail < config_.geometry.segments ||
         config_.full == SpoolConfig::Full::kDropOldest;
}

bool Spool::has_room(size_t size) const {
  if (queued_ >= config_.write_queue || size > config_.geometry.largest_batch()) return false;
  return fits_segment(size) || may_begin_segment();
}

bool Spool::append(PendingBatch& batch, UnixTime time) {
  if (!has_room(batch.bytes.size()) || batch.source >= names_.size()) return false;
  if (!fits_segment(batch.bytes.size())) begin_segment(time);
  seal_batch(batch.bytes, state_.logs.back().id, key_, appended_position_);
  const uint64_t end = appended_position_ + batch.bytes.size();
  queue({.offset = config_.geometry.offset_of(appended_position_),
         .bytes = std::move(batch.bytes),
         .written_position = end,
         .batches = {{appended_position_, batch.end}}});
  appended_position_ = end;
  state_.logs.back().marks[batch.source] = batch.end;
  return true;
}

void Spool::begin_segment(UnixTime time) {
  if (state_.next - state_.tail == config_.geometry.segments) {
    ++state_.tail;
    ++segments_dropped_;
  }
  const uint64_t index = state_.next++;
  // Before the segment that was there is overwritten, it is written that it is needed no more. And
  // a start finds the new segment without looking for it.
  queue_superblock();
  const SpoolLog& log = state_.logs.back();
  SegmentHeader header;
  header.index = index;
  header.log = log.id;
  header.boot = log.boot;
  header.time = time;
  for (size_t i = 0; i < names_.size(); ++i) header.sources.push_back({names_[i], log.marks[i]});
  if (state_.logs.size() > 1) {
    const SpoolLog& previous = state_.logs[state_.logs.size() - 2];
    header.previous = previous.id;
    header.previous_marks = previous.marks;
  }
  appended_position_ = index * config_.geometry.segment_size + kSegmentHeaderSize;
  segment_open_ = true;
  queue({.offset = config_.geometry.offset_of(index * config_.geometry.segment_size),
         .bytes = encode(header),
         .written_position = appended_position_});
}

void Spool::queue(Queued what) {
  queued_ += what.bytes.size();
  // What is under way is not touched.
  if (queue_.size() > (under_way_ ? 1u : 0u)) {
    Queued& last = queue_.back();
    const bool batches = !last.batches.empty() && !what.batches.empty();
    if (batches && last.offset + last.bytes.size() == what.offset) {
      last.bytes.insert(last.bytes.end(), what.bytes.begin(), what.bytes.end());
      last.written_position = what.written_position;
      last.batches.push_back(what.batches.front());
      return;
    }
  }
  queue_.push_back(std::move(what));
}

void Spool::queue_superblock() {
  ++state_.generation;
  Superblock superblock = state_;
  // The current log has a place from its first segment on.
  if (superblock.logs.back().first == superblock.next) superblock.logs.pop_back();
  queue({.offset = state_.generation % 2 * kSuperblockSize, .bytes = encode(superblock)});
}

void Spool::request_sync() {
  if (!queue_.empty() && queue_.back().sync && !(under_way_ && queue_.size() == 1)) return;
  queue_superblock();
  queue_.push_back({.sync = true});
}

std::optional<SpoolWrite> Spool::next_write() {
  if (under_way_ || queue_.empty()) return std::nullopt;
  under_way_ = true;
  const Queued& first = queue_.front();
  if (first.sync) return SpoolWrite{SpoolWrite::Kind::kSync, 0, {}};
  return SpoolWrite{SpoolWrite::Kind::kWrite, first.offset + done_,
                    std::span(first.bytes).subspan(done_)};
}

void Spool::written(size_t bytes) {
  under_way_ = false;
  if (queue_.empty() || queue_.front().sync) return;
  Queued& first = queue_.front();
  done_ = std::min(done_ + bytes, first.bytes.size());
  if (done_ < first.bytes.size()) return;
  written_position_ = std::max(written_position_, first.written_position);
  queued_ -= first.bytes.size();
  done_ = 0;
  if (!first.batches.empty()) {
    recent_bytes_ += first.bytes.size() + kRecentCost;
    recent_.push_back(std::move(first));
    while (recent_bytes_ > config_.recent) forget_recent();
  }
  queue_.pop_front();
}

void Spool::passed(uint64_t position) {
  while (!recent_.empty() && recent_.front().written_position <= position) forget_recent();
}

void Spool::forget_recent() {
  recent_bytes_ -= recent_.front().bytes.size() + kRecentCost;
  recent_.pop_front();
}

std::optional<RecentBatch> Spool::recent(uint64_t position) const {
  // The last one that begins at the position or before it.
  const auto after = std::upper_bound(
      recent_.begin(), recent_.end(), position,
      [](uint64_t at, const Queued& each) { return at < each.batches.front().position; });
  if (after == recent_.begin()) return std::nullopt;
  const Queued& write = *std::prev(after);
  const auto place =
      std::lower_bound(write.batches.begin(), write.batches.end(), position,
                       [](const Place& each, uint64_t at) { return each.position < at; });
  if (place == write.batches.end() || place->position != position) return std::nullopt;
  const auto next = std::next(place);
  const uint64_t end = next == write.batches.end() ? write.written_position : next->position;
  const uint64_t begin = write.batches.front().position;
  return RecentBatch{std::span(write.bytes).subspan(position - begin, end - position), place->end};
}

void Spool::synced() {
  under_way_ = false;
  if (queue_.empty() || !queue_.front().sync) return;
  synced_position_ = written_position_;
  queue_.pop_front();
}

void Spool::acknowledge(uint64_t position, const std::vector<Mark>& acked) {
  state_.acked_position = std::max(state_.acked_position, std::min(position, written_position_));
  state_.acked = acked;
  const uint64_t last = state_.next == state_.tail ? state_.tail : state_.next - 1;
  const uint64_t segment = state_.acked_position / config_.geometry.segment_size;
  state_.tail = std::clamp(segment, state_.tail, std::max(last, state_.tail));
}

bool Spool::finish_first_log() {
  if (state_.logs.size() < 2) return false;
  state_.logs.pop_front();
  start_first_log();
  return true;
}

// Nothing before the first log is needed any more, and nothing of it is acknowledged yet.
void Spool::start_first_log() {
  const SpoolLog& first = state_.logs.front();
  state_.acked.assign(first.marks.size(), {});
  state_.tail = std::max(state_.tail, first.first);
  // Not up to the tail: segments of this log may have been given up.
  state_.acked_position =
      std::max(state_.acked_position, first.first * config_.geometry.segment_size);
}

}  // namespace virtproxy::logs
