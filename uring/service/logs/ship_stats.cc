// Statistics of log shipping.
#include <algorithm>

#include "uring/base/log.h"
#include "uring/base/text.h"
#include "uring/mux/stats_text.h"
#include "uring/service/logs/log_shipper.h"

namespace virtproxy::logs {
namespace {

using StatKind::kCounter;
using StatKind::kGauge;
constexpr StatUnit kBytes = StatUnit::kBytes;

constexpr StatInfo kReceived{"ship_lines_received", "Lines that a source of log shipping received",
                             kCounter};
constexpr StatInfo kReceivedBytes{"ship_received", "Bytes of the lines that a source received",
                                  kCounter, kBytes};
constexpr StatInfo kDropped{"ship_lines_dropped", "Lines that were dropped, by reason", kCounter};
constexpr StatInfo kAcknowledged{"ship_lines_acknowledged",
                                 "Lines of this run, delivered or dropped, that the other end has "
                                 "acknowledged",
                                 kCounter};
constexpr StatInfo kUp{
    "ship_source_up",
    "1 if the source is read, 0 if it has ended or what it reads is started again"};
constexpr StatInfo kBlocked{"ship_source_blocked", "1 if the source is not read for want of room"};
constexpr StatInfo kBlockedNow{
    "ship_source_blocked_now",
    "How long the source has not been read for want of room, if it is not", kGauge,
    StatUnit::kSeconds};
constexpr StatInfo kBlockedTime{"ship_source_blocked_time",
                                "How long the source was not read for want of room, in all",
                                kCounter, StatUnit::kSeconds};
constexpr StatInfo kRate{"ship_lines_rate",
                         "Lines a second that the source receives, of the last 10 s or so"};
constexpr StatInfo kSourceOldest{"ship_source_oldest_unacknowledged",
                                 "Age of the source's oldest line of this run that is not "
                                 "acknowledged",
                                 kGauge, StatUnit::kSeconds};
constexpr StatInfo kHeld{"ship_source_held", "Memory that lines of the source take up", kGauge,
                         kBytes};
constexpr StatInfo kExplained{"ship_lines_explained",
                              "Lines that could not be sent from the spool, or that the other end "
                              "rejected, by reason",
                              kCounter};
constexpr StatInfo kConnected{"ship_connected", "1 if the other end takes lines"};
constexpr StatInfo kUnacknowledged{
    "ship_unacknowledged",
    "Memory that lines take up which were sent and are not acknowledged, without a spool", kGauge,
    kBytes};
constexpr StatInfo kSpoolUsed{"ship_spool_used", "Bytes of the spool that are not acknowledged",
                              kGauge, kBytes};
constexpr StatInfo kUnwritten{"ship_spool_unwritten",
                              "Bytes for the spool that are not written yet", kGauge, kBytes};
constexpr StatInfo kSpoolSize{"ship_spool_size", "Bytes of the spool", kGauge, kBytes};
constexpr StatInfo kSpoolFailures{"ship_spool_failures",
                                  "Writes and syncs of the spool that failed", kCounter};
constexpr StatInfo kSpoolSyncs{"ship_spool_syncs", "Syncs of the spool", kCounter};
constexpr StatInfo kOldest{"ship_oldest_unacknowledged",
                           "Age of the oldest line of this run that is not acknowledged", kGauge,
                           StatUnit::kSeconds};

}  // namespace

uint64_t LogShipper::spool_bytes() const {
  const Spool* const spool = shipper_.spool();
  if (spool == nullptr) return 0;
  // What lies before the oldest segment is acknowledged, or was given up.
  const uint64_t begin =
      std::max(spool->acked_position(), spool->tail() * spool->geometry().segment_size);
  return spool->appended_position() - std::min(begin, spool->appended_position());
}

Duration LogShipper::oldest_age(const SourceState& source, Instant now) {
  return source.given.empty() ? Duration::zero() : now - source.given.front().second;
}

Duration LogShipper::oldest_age(Instant now) const {
  Duration oldest{};
  for (const SourceState& source : sources_) oldest = std::max(oldest, oldest_age(source, now));
  return oldest;
}

void LogShipper::visit_stats(StatVisitor& visitor, Instant) const {
  const Instant now = monotonic_now();
  const Buffer& buffer = shipper_.buffer();
  for (size_t i = 0; i < sources_.size(); ++i) {
    const auto index = static_cast<uint16_t>(i);
    const StatLabel label{"source", sources_[i].spec.config.name};
    visitor.visit(kReceived, {buffer.received(index).lines, "ship_received", {&label, 1}});
    visitor.visit(kReceivedBytes, {buffer.received(index).bytes, "ship_bytes", {&label, 1}});
    visitor.visit(kAcknowledged, {acknowledged(i), "ship_acknowledged", {&label, 1}});
    for (size_t reason = 0; reason < kDropReasons; ++reason) {
      const StatLabel labels[] = {label, {"reason", name_of(static_cast<DropReason>(reason))}};
      visitor.visit(kDropped, {buffer.dropped(index)[reason].lines, "ship_dropped", labels});
    }
    visitor.visit(kUp, {sources_[i].source->up() ? 1u : 0u, {}, {&label, 1}});
    visitor.visit(kBlocked, {blocked(index) ? 1u : 0u, "ship_blocked", {&label, 1}});
    const SourceState& source = sources_[i];
    const Duration blocked_now =
        source.blocked_since ? now - *source.blocked_since : Duration::zero();
    const Duration blocked_time = source.blocked_before + blocked_now;
    visitor.visit(kBlockedNow, {static_cast<uint64_t>(blocked_now.count()), {}, {&label, 1}});
    visitor.visit(kBlockedTime, {static_cast<uint64_t>(blocked_time.count()), {}, {&label, 1}});
    visitor.visit(kRate, {source.rate->per_second(now), {}, {&label, 1}});
    visitor.visit(kSourceOldest,
                  {static_cast<uint64_t>(oldest_age(source, now).count()), {}, {&label, 1}});
    visitor.visit(kHeld, {buffer.used(index), "ship_held", {&label, 1}});
  }
  for (size_t reason = 0; reason < kDropReasons; ++reason) {
    const StatLabel label{"reason", name_of(static_cast<DropReason>(reason))};
    visitor.visit(kExplained, {explained_[reason].lines, "ship_explained", {&label, 1}});
  }
  visitor.visit(kConnected, {stream_ != nullptr && greeted_ ? 1u : 0u, "ship_connected"});
  if (!writer_) visitor.visit(kUnacknowledged, {shipper_.kept_bytes(), "ship_unacknowledged"});
  if (writer_) {
    visitor.visit(kSpoolUsed, {spool_bytes(), "ship_spool"});
    const Spool& spool = *shipper_.spool();
    visitor.visit(kUnwritten,
                  {spool.appended_position() - spool.written_position(), "ship_unwritten"});
    visitor.visit(kSpoolSize, {spool_file_.geometry.file_size(), ""});
    visitor.visit(kSpoolFailures, {writer_->failures(), "ship_spool_failures"});
    visitor.visit(kSpoolSyncs, {writer_->syncs(), ""});
  }
  visitor.visit(kOldest, {static_cast<uint64_t>(oldest_age(now).count()), "ship_oldest_us"});
}

void LogShipper::log_stats() const {
  const Buffer& buffer = shipper_.buffer();
  for (size_t i = 0; i < sources_.size(); ++i) {
    const auto index = static_cast<uint16_t>(i);
    std::string dropped;
    for (size_t reason = 0; reason < kDropReasons; ++reason) {
      const uint64_t lines = buffer.dropped(index)[reason].lines;
      if (lines == 0) continue;
      dropped += " dropped_" + std::string(name_of(static_cast<DropReason>(reason))) + "=" +
                 std::to_string(lines);
    }
    log_answer("stats source={} received={} bytes={} acknowledged={}{} held={} blocked={}",
               printable(sources_[i].spec.config.name), buffer.received(index).lines,
               buffer.received(index).bytes, acknowledged(i), dropped, buffer.used(index),
               blocked(index) ? 1 : 0);
  }
  log_answer(
      "stats shipping connected={} spool_bytes={} oldest_us={}",
      stream_ != nullptr && greeted_ ? 1 : 0, spool_bytes(),
      std::chrono::duration_cast<std::chrono::microseconds>(oldest_age(monotonic_now())).count());
}

}  // namespace virtproxy::logs
