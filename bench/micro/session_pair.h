// Two sessions whose batches are handed over in memory, for benchmarks of the core alone. Payload
// is not written: the core does not look at it, except to seal it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstring>
#include <vector>

#include "core/v2/session.h"
#include "core/wire/little_endian.h"

namespace virtproxy {

class SessionPair {
 public:
  static constexpr uint32_t kFrame = 65536;

  explicit SessionPair(uint64_t features = 0, uint32_t window = 1u << 20)
      : near_(config(1, features, window)), far_(config(2, features, window)) {
    near_.transport_up(now_);
    far_.transport_up(now_);
    while (!near_.up() || !far_.up() || near_.wants_to_write(now_) || far_.wants_to_write(now_)) {
      exchange();
    }
  }

  StreamKey open() {
    const StreamKey stream = *near_.open("echo", Priority::kNormal, {});
    exchange();
    return stream;
  }

  Session& near() { return near_; }

  // One batch each way. Whatever arrives is taken at once, and every end is answered by one.
  void exchange() {
    carry(near_, far_);
    carry(far_, near_);
    now_ += std::chrono::microseconds(10);
  }

 private:
  static SessionConfig config(uint64_t secret, uint64_t features, uint32_t window) {
    SessionConfig config;
    config.limits = derive_limits(64u << 20, 1024, window, kFrame);
    config.wanted_features = features;
    config.epoch_key = {secret, 0};
    return config;
  }

  void carry(Session& from, Session& to) {
    if (!from.wants_to_write(now_)) return;
    const Batch& batch = from.plan(256 * 1024, now_, events_);
    if (bytes_.size() < batch.size) bytes_.resize(batch.size);
    size_t size = 0;
    for (const PlannedFrame& piece : batch.frames) {
      const auto head = batch.head(piece);
      std::memcpy(bytes_.data() + size, head.data(), head.size());
      size += head.size() + piece.payload;
      if (piece.has_trailer) {
        const size_t frame = kHeaderSize + piece.payload;
        store_le(bytes_.data() + size, from.trailer_for({bytes_.data() + size - frame, frame}));
        size += kTrailerSize;
      }
    }
    events_.clear();
    feed(to, {bytes_.data(), size}, now_, events_, [] { return true; });
    for (size_t i = 0; i < events_.size(); ++i) {
      const Event event = events_[i];
      if (event.kind == Event::Kind::kData) {
        to.consumed(event.stream, event.bytes.size());
      } else if (event.kind == Event::Kind::kEnd) {
        if (&to == &far_) to.end(event.stream);
        to.delivered(event.stream, events_);
      }
    }
    events_.clear();
  }

  Instant now_{1};
  V2Session near_;
  V2Session far_;
  Events events_;
  std::vector<std::byte> bytes_;
};

}  // namespace virtproxy
