#include "core/logs/spool_reader.h"

#include <algorithm>

namespace virtproxy::logs {
namespace {

constexpr size_t kReadSize = 64u << 10;
constexpr size_t kPage = 4096;

}  // namespace

void SpoolReader::seek(uint64_t position) {
  cursor_ = position;
  segment_.reset();
  unreadable_ = false;
  missing_ = DropReason::kCorrupt;
  batch_ = {};
  buffer_.clear();
  failed_at_ = UINT64_MAX;
}

SpoolReader::Step SpoolReader::want(uint64_t position, size_t size) {
  wanted_ = position;
  wanted_size_ = size;
  return Step::kRead;
}

void SpoolReader::read(std::span<const std::byte> bytes) {
  batch_ = {};
  bytes = bytes.first(std::min(bytes.size(), wanted_size_));
  if (bytes.size() < wanted_size_) failed_at_ = wanted_;
  buffer_.assign(bytes.begin(), bytes.end());
  buffer_at_ = wanted_;
}

void SpoolReader::enter(uint64_t index) {
  cursor_ = index * size_of_segment();
  segment_.reset();
  unreadable_ = false;
  buffer_.clear();
  failed_at_ = UINT64_MAX;
}

SpoolReader::Step SpoolReader::step() {
  cursor_ += batch_.size();
  batch_ = {};
  for (;;) {
    if (cursor_ / size_of_segment() < spool_.tail()) {
      enter(spool_.tail());
      missing_ = DropReason::kOldest;
    }
    if (cursor_ / size_of_segment() >= spool_.next()) return Step::kWait;
    const uint64_t next_segment = cursor_ / size_of_segment() + 1;
    // Of the segment that is being written, what is written.
    const bool current = spool_.written_position() < segment_end();
    const uint64_t end = std::min(segment_end(), spool_.written_position());
    if (!segment_) {
      if (end < base() + kSegmentHeaderSize) return Step::kWait;
      if (!unreadable_) {
        if (const auto step = open_segment()) return *step;
      }
      if (unreadable_) {
        if (current) return Step::kWait;
        enter(next_segment);
        continue;
      }
    }
    if (const auto step = find_batch(end)) return *step;
    if (current) return Step::kWait;
    enter(next_segment);
  }
}

std::optional<SpoolReader::Step> SpoolReader::open_segment() {
  const uint64_t begin = base();
  const bool read = buffer_at_ == begin && !buffer_.empty();
  if (!read && failed_at_ != begin) return want(begin, kSegmentHeaderSize);
  const auto bytes = read ? std::span<const std::byte>(buffer_) : std::span<const std::byte>();
  auto header = decode_segment_header(bytes.first(std::min(bytes.size(), kSegmentHeaderSize)));
  if (!header || header->index != begin / size_of_segment()) {
    unreadable_ = true;
    return std::nullopt;
  }
  segment_ = std::move(header);
  key_ = check_key(segment_->log);
  cursor_ = std::max(cursor_, begin + kSegmentHeaderSize);
  return Step::kSegment;
}

// The next whole batch before `end`; nothing if there is none, and the cursor is at `end` then.
std::optional<SpoolReader::Step> SpoolReader::find_batch(uint64_t end) {
  missing_ = DropReason::kCorrupt;
  while (cursor_ + kBatchHeaderSize <= end) {
    if (const auto recent = spool_.recent(cursor_)) {
      decode_batch_header(recent->bytes, header_);
      batch_ = recent->bytes;
      end_ = recent->end;
      return Step::kBatch;
    }
    std::span<const std::byte> bytes;
    if (cursor_ >= buffer_at_ && cursor_ < buffer_at_ + buffer_.size()) {
      bytes = std::span<const std::byte>(buffer_).subspan(cursor_ - buffer_at_);
    }
    bytes = bytes.first(std::min<size_t>(bytes.size(), end - cursor_));
    const auto fault = decode_batch_header(bytes, header_);
    size_t need = kBatchHeaderSize;
    if (fault == BatchFault::kNone) {
      // What an earlier lap of the ring left tells another position.
      if (header_.position != cursor_ || header_.end_position() > end || header_.floating() ||
          header_.log != segment_->log.low || header_.source >= segment_->sources.size()) {
        cursor_ += next_batch_start(bytes);
        continue;
      }
      need = header_.size();
    } else if (fault != BatchFault::kShort) {
      cursor_ += next_batch_start(bytes);
      continue;
    }
    if (bytes.size() < need) {
      if (failed_at_ == cursor_) {
        // Not readable: whatever begins in this page is lost.
        cursor_ += std::min<uint64_t>(kPage - cursor_ % kPage, end - cursor_);
        continue;
      }
      return want(cursor_, std::min<uint64_t>(std::max(need, kReadSize), end - cursor_));
    }
    BatchExtent extent;
    if (open_batch(bytes, key_, header_, extent) != BatchFault::kNone) {
      cursor_ += next_batch_start(bytes);
      continue;
    }
    end_ = extent.end;
    batch_ = bytes.first(header_.size());
    return Step::kBatch;
  }
  cursor_ = end;
  return std::nullopt;
}

}  // namespace virtproxy::logs
