// Bounds the bytes in flight: those written to the channel that the peer has not reported as read.
//
// A channel takes much before it blocks: a TCP socket several megabytes, a virtio-serial port
// nearly five. That is a queue in which every message waits behind bulk, so the sender bounds it.
// The limit is what keeps a local channel busy: 512 KiB where the channel is fast, what it carries
// in 5 ms where it is slow. Where there is a real round trip, it is twice the bandwidth-delay
// product as in BBR's model of a path (Cardwell et al., ACM Queue, 2016): the highest rate at which
// bytes arrived, over the shortest round trip seen.
//
// A round trip behind a full limit has the sender's own queue in it. Taken for that of the path it
// would double the limit each time. So what was seen is replaced by a round trip with little in
// flight. Where bulk never pauses, the sender holds it back for one such round trip.
//
// The peer reports with ACK, by absolute counts of bytes since the session began.
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
      : local_(local), least_(report_interval + report_interval / 2), limit_(local) {
    VP_ASSERT(least_ <= local_);
  }

  void sent(uint64_t bytes, Instant now) {
    sent_ += bytes;
    if (probing_) return;
    probing_ = true;
    probe_queue_ = in_flight();
    probe_ = sent_;
    probe_at_ = now;
    probe_acked_ = acked_;
  }

  // The peer has read `total` bytes of the session. False if fewer were sent, or more reported.
  bool acknowledge(uint64_t total, Instant now) {
    if (total < acked_ || total > sent_) return false;
    acked_ = total;
    if (probing_ && acked_ >= probe_) {
      probing_ = false;
      measure(acked_ - probe_acked_, now - probe_at_, now);
    }
    return true;
  }

  // Bytes of bulk that may be written now. Zero below an eighth of the limit: writes that small
  // cost more than they carry.
  uint64_t available() const {
    const uint64_t limit = phase_ == Phase::kDraining ? least_ : limit_;
    const uint64_t available = limit > in_flight() ? limit - in_flight() : 0;
    return available < limit / 8 ? 0 : available;
  }

  uint64_t in_flight() const { return sent_ - acked_; }
  uint64_t limit() const { return limit_; }
  // As it was last measured, zero before.
  Duration round_trip() const { return round_trip_; }

 private:
  static constexpr Duration kMemory = std::chrono::seconds(10);
  // For this long, a message may wait behind bulk on a channel that is slow.
  static constexpr Duration kQueue = std::chrono::milliseconds(5);

  enum class Phase {
    kFull,
    kDraining,  // little may be in flight until a round trip was measured with that
  };

  void measure(uint64_t bytes, Duration round_trip, Instant now) {
    round_trip = std::max(round_trip, Duration(1));
    round_trip_ = round_trip;
    const bool old = now - shortest_at_ > kMemory;
    const bool clean = probe_queue_ <= least_;
    if (round_trip < shortest_ || (old && clean)) {
      shortest_ = round_trip;
      shortest_at_ = now;
    }
    if (clean) {
      phase_ = Phase::kFull;
    } else if (old) {
      phase_ = Phase::kDraining;
    }
    const double rate = static_cast<double>(bytes) / static_cast<double>(round_trip.count());
    rate_ = std::max(rate, rate_ * 7 / 8);
    // What carried little shows the sender's pace, not the channel's.
    if (bytes >= least_ / 2) bulk_rate_ = std::max(rate, bulk_rate_ * 7 / 8);
    const double product = rate_ * static_cast<double>(shortest_.count());
    const auto wanted = static_cast<uint64_t>(std::min(2 * product, static_cast<double>(kMost)));
    limit_ = std::max(wanted, local_limit());
  }

  // Before bulk was measured, the channel is taken for a fast one.
  uint64_t local_limit() const {
    const double queue = bulk_rate_ * static_cast<double>(kQueue.count());
    if (bulk_rate_ == 0 || queue >= static_cast<double>(local_)) return local_;
    return std::max(least_, static_cast<uint64_t>(queue));
  }

  uint64_t local_;
  uint64_t least_;  // the peer's reports go on with this much: less may not be reported
  uint64_t limit_;
  uint64_t sent_ = 0;
  uint64_t acked_ = 0;

  Phase phase_ = Phase::kFull;
  bool probing_ = false;
  uint64_t probe_queue_ = 0;  // what was in flight when it began
  uint64_t probe_ = 0;        // once this much is acknowledged, a round trip is over
  uint64_t probe_acked_ = 0;
  Instant probe_at_{};
  Duration round_trip_{};
  Duration shortest_ = Duration::max();
  Instant shortest_at_{};
  double rate_ = 0;       // bytes per nanosecond
  double bulk_rate_ = 0;  // the same, of those round trips that carried much
};

}  // namespace virtproxy
