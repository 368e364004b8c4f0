#include <algorithm>

#include "core/logs/spool.h"

namespace virtproxy::logs {
namespace {

// Segments behind the newest one that a superblock names: one whose header cannot be read does not
// hide what comes behind it.
constexpr uint64_t kLookAhead = 3;

}  // namespace

SpoolRecovery::SpoolRecovery(const SpoolGeometry& geometry) : geometry_(geometry) {}

SpoolRead SpoolRecovery::next_read() const {
  switch (phase_) {
    case Phase::kSuperblocks:
      return {0, kSuperblockArea};
    case Phase::kHeaders:
      return {geometry_.offset_of(probe_ * geometry_.segment_size), kSegmentHeaderSize};
    case Phase::kSegment:
      return {geometry_.offset_of(newest_->index * geometry_.segment_size), geometry_.segment_size};
    case Phase::kDone:
    case Phase::kOtherGeometry:
      break;
  }
  return {};
}

void SpoolRecovery::read(std::span<const std::byte> bytes) {
  switch (phase_) {
    case Phase::kSuperblocks:
      return take_superblocks(bytes);
    case Phase::kHeaders:
      return take_header(decode_segment_header(bytes));
    case Phase::kSegment:
      return take_segment(bytes);
    case Phase::kDone:
    case Phase::kOtherGeometry:
      return;
  }
}

void SpoolRecovery::take_superblocks(std::span<const std::byte> bytes) {
  std::optional<Superblock> best;
  for (size_t i = 0; i < 2 && bytes.size() >= (i + 1) * kSuperblockSize; ++i) {
    auto found = decode_superblock(bytes.subspan(i * kSuperblockSize, kSuperblockSize));
    if (found && (!best || found->generation > best->generation)) best = std::move(found);
  }
  phase_ = Phase::kHeaders;
  if (!best) {
    scanning_all_ = true;
    probe_end_ = geometry_.segments;
    return;
  }
  state_ = std::move(*best);
  if (state_.geometry != geometry_) {
    phase_ = Phase::kOtherGeometry;
    return;
  }
  probe_ = state_.next > state_.tail ? state_.next - 1 : state_.next;
  probe_end_ = state_.next + kLookAhead;
}

void SpoolRecovery::take_header(const std::optional<SegmentHeader>& header) {
  const bool here = header && header->index % geometry_.segments == probe_ % geometry_.segments &&
                    (scanning_all_ || header->index == probe_);
  if (here && scanning_all_) {
    headers_.push_back(*header);
  } else if (here) {
    newest_ = header;
    probe_end_ = std::max(probe_end_, probe_ + 1 + kLookAhead);
    // A log that was begun behind the superblock.
    if (state_.logs.empty() || state_.logs.back().id != header->log) {
      if (!state_.logs.empty() && state_.logs.back().id == header->previous &&
          header->previous_marks.size() == state_.logs.back().marks.size()) {
        state_.logs.back().marks = header->previous_marks;
      }
      state_.logs.push_back({header->log, header->boot, header->index, header->starts()});
    }
  }
  if (++probe_ >= probe_end_) headers_done();
}

void SpoolRecovery::headers_done() {
  if (scanning_all_) rebuild(headers_);
  headers_.clear();
  if (newest_) {
    state_.next = std::max(state_.next, newest_->index + 1);
    if (state_.next - state_.tail > geometry_.segments) {
      state_.tail = state_.next - geometry_.segments;
    }
    phase_ = Phase::kSegment;
  } else {
    phase_ = Phase::kDone;
  }
}

void SpoolRecovery::rebuild(const std::vector<SegmentHeader>& headers) {
  std::vector<const SegmentHeader*> order;
  for (const SegmentHeader& header : headers) order.push_back(&header);
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return a->index < b->index; });
  state_ = {};
  state_.geometry = geometry_;
  if (order.empty()) return;
  newest_ = *order.back();
  const uint64_t next = newest_->index + 1;
  state_.next = next;
  state_.tail =
      std::max(order.front()->index, next > geometry_.segments ? next - geometry_.segments : 0);
  for (const SegmentHeader* header : order) {
    if (header->index < state_.tail) continue;
    if (state_.logs.empty() || state_.logs.back().id != header->log) {
      if (!state_.logs.empty() && state_.logs.back().id == header->previous) {
        state_.logs.back().marks = header->previous_marks;
      }
      state_.logs.push_back({header->log, header->boot, header->index, header->starts()});
    } else {
      state_.logs.back().marks = header->starts();
    }
  }
  while (state_.logs.size() > kMaxSpoolLogs) {
    state_.logs.pop_front();
    state_.tail = state_.logs.front().first;
  }
  // What was acknowledged is not known any more: what is there will be sent, and a receiver that
  // has it leaves it out.
  state_.acked_position = state_.tail * geometry_.segment_size;
  state_.acked = {};
  for (const SegmentHeader* header : order) {
    if (header->index == state_.tail) state_.acked = header->starts();
  }
  state_.acked.resize(state_.logs.front().marks.size());
}

void SpoolRecovery::take_segment(std::span<const std::byte> bytes) {
  phase_ = Phase::kDone;
  if (state_.logs.empty() || state_.logs.back().id != newest_->log) return;
  SpoolLog& log = state_.logs.back();
  const uint64_t base = newest_->index * geometry_.segment_size;
  const uint64_t key = check_key(log.id);
  std::vector<Mark> marks = newest_->starts();
  size_t at = kSegmentHeaderSize;
  while (at + kBatchHeaderSize <= bytes.size()) {
    BatchHeader header;
    BatchExtent extent;
    if (decode_batch_header(bytes.subspan(at), header) != BatchFault::kNone ||
        header.position != base + at ||
        open_batch(bytes.subspan(at), key, header, extent) != BatchFault::kNone) {
      at += next_batch_start(bytes.subspan(at));
      continue;
    }
    if (header.source < marks.size() && marks[header.source].seq < extent.end.seq) {
      marks[header.source] = extent.end;
    }
    at += header.size();
  }
  // The superblock may know of batches that are not there any more: they are lost and are counted.
  for (size_t i = 0; i < std::min(marks.size(), log.marks.size()); ++i) {
    if (log.marks[i].seq < marks[i].seq) log.marks[i] = marks[i];
  }
}

}  // namespace virtproxy::logs
