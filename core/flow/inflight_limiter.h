// Bounds the bytes in flight: those written to the channel that the peer has not reported as read.
//
// A channel takes much before it blocks: a TCP socket several megabytes, a virtio-serial port
// nearly five. That is a queue in which every message waits behind bulk, so the sender bounds it.
// The limit is what keeps a local channel busy: 512 KiB where the channel is fast, what it carries
// in 5 ms where it is slow. Where there is a real round trip, it is twice the bandwidth-delay
// product as in BBR's model of a path (Cardwell et al., ACM Queue, 2016): the highest rate at which
// bytes arrived, times the shortest round trip seen.
//
// The peer reports with ACK, by absolute counts of bytes since the session began: once it has read
// an interval of bytes since its last report, and not after any time. So a round trip is measured
// where the bytes in flight become as many as an interval. The peer has no report due before, and
// the one that these bytes make due waits for no others. Little is in flight then, so the sender's
// own queue is hardly in it. Bulk that never pauses always has more in flight. Every 10 s the
// sender holds it back until less than an interval is.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/assert.h"
#include "core/time.h"

namespace virtproxy {

class InflightLimiter {
 public:
  static constexpr uint64_t kMost = 16u << 20;  // bytes

  // `local` is the limit of a fast channel with a short round trip, before anything was measured
  // too; the peer reports at the latest after `report_interval`. Both in bytes.
  InflightLimiter(uint64_t local, uint64_t report_interval)
      : local_(local),
        interval_(report_interval),
        least_(report_interval + report_interval / 2),
        limit_(local) {
    VP_ASSERT(least_ <= local_);
  }

  void sent(uint64_t bytes, Instant now) {
    const bool report_was_due = in_flight() >= interval_;
    sent_ += bytes;
    if (!report_was_due && in_flight() >= interval_) crossing_ = {now, acked_ + interval_};
    if (batch_.end != kNone) return;
    batch_ = {now, sent_, acked_};
    ran_dry_ = false;
  }

  // Nothing is queued behind what was sent.
  void ran_dry() { ran_dry_ = true; }

  // The peer has read `total` bytes of the session. False if fewer were sent, or more reported.
  bool acknowledge(uint64_t total, Instant now) {
    if (total < acked_ || total > sent_) return false;
    if (total >= crossing_.position) measure_round_trip(now);
    acked_ = total;
    if (acked_ >= batch_.end) measure_rate(now);
    const bool old = now - shortest_at_ > kMemory;
    phase_ = old && in_flight() >= interval_ ? Phase::kDraining : Phase::kFull;
    return true;
  }

  // Bytes of bulk that may be written now. Zero below an eighth of the limit: writes that small
  // cost more than they carry.
  uint64_t available() const {
    if (phase_ == Phase::kDraining) return 0;
    const uint64_t available = limit_ > in_flight() ? limit_ - in_flight() : 0;
    return available < limit_ / 8 ? 0 : available;
  }

  uint64_t in_flight() const { return sent_ - acked_; }
  uint64_t limit() const { return limit_; }
  // As it was last measured, zero before.
  Duration round_trip() const { return round_trip_; }

 private:
  static constexpr uint64_t kNone = UINT64_MAX;  // a position that is never reached
  static constexpr Duration kMemory = std::chrono::seconds(10);
  // For this long, a message may wait behind bulk on a channel that is slow.
  static constexpr Duration kQueue = std::chrono::milliseconds(5);

  enum class Phase {
    kFull,
    kDraining,  // until less than an interval is in flight
  };
  struct Crossing {
    Instant at{};
    uint64_t position = kNone;  // what makes the report due
  };
  struct Batch {
    Instant at{};
    uint64_t end = kNone;       // position
    uint64_t acked_before = 0;  // position
  };

  void measure_round_trip(Instant now) {
    round_trip_ = std::max(now - crossing_.at, Duration(1));
    if (round_trip_ < shortest_ || now - shortest_at_ > kMemory) {
      shortest_ = round_trip_;
      shortest_at_ = now;
      adjust();
    }
    crossing_.position = kNone;
  }

  void measure_rate(Instant now) {
    const Duration taken = std::max(now - batch_.at, Duration(1));
    const double rate = real(acked_ - batch_.acked_before) / static_cast<double>(taken.count());
    // While the sender ran dry, the rate was its own: the channel's is that or more.
    rate_ = std::max(rate, ran_dry_ ? rate_ : rate_ * 7 / 8);
    batch_.end = kNone;
    adjust();
  }

  void adjust() {
    const double local = rate_ * static_cast<double>(kQueue.count());
    double limit =
        local >= real(local_) || rate_ == 0 ? real(local_) : std::max(real(least_), local);
    if (shortest_ != Duration::max()) {
      // On a slow channel the interval took a part of the round trip, which is to count once.
      const double product = rate_ * static_cast<double>(shortest_.count());
      limit = std::max(limit, 2 * product - real(interval_));
    }
    limit_ = static_cast<uint64_t>(static_cast<int64_t>(std::min(limit, real(kMost))));
  }

  // Of counts of bytes, which are below 2^63: the conversion of a signed number is one instruction.
  static double real(uint64_t bytes) { return static_cast<double>(static_cast<int64_t>(bytes)); }

  uint64_t local_;
  uint64_t interval_;
  uint64_t least_;  // more than an interval: a report becomes due before nothing may be sent
  uint64_t limit_;
  uint64_t sent_ = 0;
  uint64_t acked_ = 0;
  Phase phase_ = Phase::kFull;

  Crossing crossing_;
  Duration round_trip_{};
  Duration shortest_ = Duration::max();
  Instant shortest_at_{};

  Batch batch_;           // whose report is awaited, for the rate
  bool ran_dry_ = false;  // since it was sent
  double rate_ = 0;       // bytes per nanosecond
};

}  // namespace virtproxy
