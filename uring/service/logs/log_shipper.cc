#include "uring/service/logs/log_shipper.h"

#include <algorithm>
#include <utility>

#include "core/assert.h"
#include "uring/base/clock.h"
#include "uring/base/log.h"
#include "uring/base/text.h"
#include "uring/base/units.h"
#include "uring/mux/channel.h"

namespace virtproxy::logs {
namespace {

// What is read in one call of a source.
constexpr size_t kScratch = 64u << 10;
// Sent and not acknowledged, of the memory.
constexpr size_t kMostWindow = 1u << 20;
// A service that the other end does not have may come with its configuration.
constexpr Duration kMissingRetry = std::chrono::minutes(5);
constexpr Duration kShortestWait = std::chrono::milliseconds(1);
// Of the marks by which ages are measured.
constexpr size_t kMostGiven = 1024;
constexpr Duration kGivenInterval = std::chrono::milliseconds(50);

ShipperConfig shipper_config(const ShipStart& start) {
  ShipperConfig config;
  // Without a spool, what is sent is kept until it is acknowledged: a part of the memory.
  config.window = std::min(kMostWindow, start.config.memory / 4);
  config.buffer.memory = start.config.memory - (start.spool ? 0 : config.window);
  config.buffer.max_line = std::min<size_t>(kMaxLine, config.buffer.memory / 4);
  if (start.spool) {
    // Behind drop records, in a batch of its own.
    const size_t most = start.spool->geometry.largest_batch() - kBatchHeaderSize - 1024;
    config.buffer.max_line = std::min(config.buffer.max_line, most);
    config.buffer.batch_size = std::min(config.buffer.batch_size, most);
  }
  return config;
}

std::vector<SourceConfig> source_configs(const ShipStart& start) {
  std::vector<SourceConfig> sources;
  for (const OpenedSource& source : start.sources) sources.push_back(source.spec.config);
  return sources;
}

std::optional<Shipper::SpoolStart> spool_start(const ShipStart& start) {
  if (!start.spool) return std::nullopt;
  SpoolConfig config;
  config.geometry = start.spool->geometry;
  // One spool has one end to lose: the oldest, where no source wants to keep that.
  const bool oldest = std::all_of(
      start.sources.begin(), start.sources.end(),
      [](const auto& source) { return source.spec.config.full == Policy::kDropOldest; });
  if (oldest) config.full = SpoolConfig::Full::kDropOldest;
  return Shipper::SpoolStart{config, start.spool->recovered};
}

}  // namespace

LogShipper::LogShipper(Loop& loop, Channel& channel, ShipStart start)
    : loop_(loop),
      channel_(channel),
      config_(start.config),
      shipper_(shipper_config(start), source_configs(start), start.log, start.boot,
               spool_start(start)),
      scratch_(kScratch),
      max_line_(shipper_config(start).buffer.max_line),
      held_{start.config.memory / 4, 0},
      wakeup_(loop, this),
      timer_(loop.timers(), this) {
  wall_ = unix_now();
  if (start.spool) {
    spool_file_ = *std::move(start.spool);
    const auto moved = [this] { wakeup_.wake(); };
    writer_.emplace(loop, spool_file_.fd.get(), *shipper_.spool(), config_.spool->sync,
                    config_.spool->path, moved);
    fetcher_.emplace(loop, spool_file_.fd.get(), [this](std::span<const std::byte> bytes) {
      shipper_.read(bytes);
      wakeup_.wake();
    });
  }
  LineTarget& target = *this;
  for (size_t i = 0; i < start.sources.size(); ++i) {
    SourceState& state = sources_.emplace_back();
    state.spec = start.sources[i].spec;
    state.tokens = static_cast<double>(state.spec.rate);
    state.filled = monotonic_now();
    state.source = make_source(loop, target, static_cast<uint16_t>(i), std::move(start.sources[i]));
  }
  channel.add_observer(*this);
  channel.add_stats(*this);
}

LogShipper::~LogShipper() { VP_ASSERT(idle()); }

void LogShipper::start() {
  for (const SourceState& state : sources_) state.source->start();
  wakeup_.wake();
}

bool LogShipper::idle() const {
  const auto idle = [](const SourceState& state) { return state.source->idle(); };
  return std::all_of(sources_.begin(), sources_.end(), idle) && (!writer_ || writer_->idle()) &&
         (!fetcher_ || fetcher_->idle());
}

// --- the stream ---------------------------------------------------------------------------------

void LogShipper::session_up(const SessionUp&) {
  if (link_ == Link::kDown) ask_later(Duration::zero());
}

// An end of protocol 1 that has sent nothing may have the service all the same.
void LogShipper::session_silent(const SessionSilent& event) {
  if (event.silence == Silence::kSentNothing && link_ == Link::kDown) ask_later(Duration::zero());
}

void LogShipper::session_down(const SessionDown&) {
  if (link_ == Link::kWaiting) link_ = Link::kDown;
}

void LogShipper::ask_later(Duration delay) {
  link_ = Link::kWaiting;
  ask_at_ = loop_.now() + delay;
  wakeup_.wake();
}

void LogShipper::refuse(int) {
  // Where there is no session, one that comes up is told of.
  if (!channel_.session().up()) {
    link_ = Link::kDown;
    return;
  }
  ask_later(backoff_.fault(loop_.now(), 0));
}

std::unique_ptr<Endpoint> LogShipper::open(int, StreamHandle& stream) {
  LogStream::Client& client = *this;
  return std::make_unique<LogStream>(stream, client);
}

void LogShipper::stream_began(LogStream& stream) {
  link_ = Link::kOpen;
  stream_ = &stream;
  greeted_ = false;
  backoff_.session_began(loop_.now());
  shipper_.connected(loop_.now());
  wakeup_.wake();
}

StreamFault LogShipper::stream_input(std::span<const std::byte> bytes) {
  const StreamFault fault = shipper_.feed(bytes);
  // Before the next log is begun: the end of this one may be acknowledged in the same piece.
  note_explained();
  if (fault != StreamFault::kNone) {
    log_warn("channel {}: log shipping: {}", channel_.label(), logs::describe(fault));
    return fault;
  }
  if (!std::exchange(greeted_, true)) {
    log_info("channel {}: log shipping: the other end takes lines", channel_.label());
    missing_said_ = false;
  }
  wakeup_.wake();
  return fault;
}

void LogShipper::stream_over(Fault fault) {
  stream_ = nullptr;
  shipper_.disconnected();
  if (phase_ == Phase::kStopped) return;
  const bool missing = fault == Fault::kUnknownService;
  if (missing && !std::exchange(missing_said_, true)) {
    log_warn(
        "channel {}: log shipping: the other end has no service {}: give it --collect; lines "
        "wait here",
        channel_.label(), kLogService);
  }
  if (greeted_) {
    log_info("channel {}: log shipping: the stream is over: {}", channel_.label(),
             fault_text(fault));
  }
  // What ends with the session goes on with the next one.
  if (!channel_.session().up()) {
    link_ = Link::kDown;
    return;
  }
  const Duration pause = backoff_.fault(loop_.now(), 0);
  ask_later(missing ? kMissingRetry : pause);
}

// --- lines --------------------------------------------------------------------------------------

// A bucket of one second's lines. By the monotonic clock: lines have come in the time that a loop
// did not run as well.
bool LogShipper::within_rate(SourceState& source) {
  if (source.spec.rate == 0) return true;
  const double most = static_cast<double>(source.spec.rate);
  const Instant now = monotonic_now();
  source.tokens = std::min(most, source.tokens + seconds_of(now - source.filled) * most);
  source.filled = now;
  return source.tokens >= 1;
}

bool LogShipper::offer(uint16_t index, const Line& line, uint64_t full_length) {
  SourceState& source = sources_[index];
  const Instant now = loop_.now();
  wakeup_.wake();
  const uint64_t length = std::max<uint64_t>(full_length, line.bytes.size());
  if (!within_rate(source)) {
    shipper_.buffer().drop(index, {DropReason::kRate, 0, 1, length, line.time, line.time}, now);
    return true;
  }
  if (shipper_.buffer().offer(index, line, full_length, now) == Buffer::Admission::kBlocked) {
    if (!closing_) return false;
    shipper_.buffer().drop(index, {DropReason::kShutdown, 0, 1, length, line.time, line.time}, now);
  } else if (source.spec.rate != 0) {
    source.tokens -= 1;
  }
  return true;
}

void LogShipper::lost_by_kernel(uint16_t index, uint64_t lines) {
  shipper_.buffer().drop(index, {DropReason::kKernelOverflow, 0, lines, 0, wall_, wall_},
                         loop_.now());
  wakeup_.wake();
}

bool LogShipper::blocked(uint16_t source) const {
  const Buffer& buffer = shipper_.buffer();
  const auto until = buffer.blocked_until(source);
  return !closing_ && until && loop_.now() < *until && !buffer.unblocked(source);
}

void LogShipper::unblock() {
  for (size_t i = 0; i < sources_.size(); ++i) {
    if (!blocked(static_cast<uint16_t>(i))) sources_[i].source->resume();
  }
}

// --- a turn -------------------------------------------------------------------------------------

void LogShipper::run_deferred() {
  wakeup_.begin();
  if (phase_ == Phase::kStopped) return;
  wall_ = unix_now();
  if (link_ == Link::kWaiting && loop_.now() >= ask_at_) {
    link_ = Link::kAsked;
    channel_.admit(*this, 0);
  }
  pump();
  if (phase_ != Phase::kRunning) go_on_stopping();
  note_given();
  note_safe();
  if (loop_.now() >= next_report_) report_drops();
  unblock();
  note_blocked();
  note_end();
  set_timer();
}

// Of sources that end by themselves, as standard input does.
void LogShipper::note_end() {
  const auto over = [](const SourceState& state) { return state.source->is_over(); };
  if (phase_ != Phase::kRunning || end_said_) return;
  if (!std::all_of(sources_.begin(), sources_.end(), over)) return;
  end_said_ = true;
  log_info("log shipping: the input has ended; SIGTERM ends this process once all is acknowledged");
}

void LogShipper::pump() {
  shipper_.pump(loop_.now(), wall_);
  if (writer_) writer_->work();
  if (fetcher_ && fetcher_->idle()) {
    if (const auto wanted = shipper_.next_read()) fetcher_->read(*wanted);
  }
  if (stream_ != nullptr && stream_->ready() && !shipper_.out().empty()) {
    stream_->send(shipper_.out());
  }
  note_explained();
}

void LogShipper::note_explained() {
  const auto& explained = shipper_.sender().explained();
  for (size_t i = 0; i < kDropReasons; ++i) {
    // They begin anew with each log.
    Tally& last = explained_last_[i];
    if (explained[i].lines < last.lines) last = {};
    explained_[i].add(explained[i].lines - last.lines, explained[i].bytes - last.bytes);
    last = explained[i];
  }
}

void LogShipper::set_timer() {
  const Instant now = loop_.now();
  std::optional<Instant> due = shipper_.due(now);
  const auto by = [&](std::optional<Instant> at) {
    if (at && (!due || *at < *due)) due = at;
  };
  if (link_ == Link::kWaiting) by(ask_at_);
  if (phase_ != Phase::kRunning) by(deadline_);
  if (has_unreported_drops()) by(next_report_);
  for (size_t i = 0; i < sources_.size(); ++i) {
    if (blocked(static_cast<uint16_t>(i))) {
      by(shipper_.buffer().blocked_until(static_cast<uint16_t>(i)));
    }
  }
  if (due && phase_ != Phase::kStopped) {
    timer_.set(std::max(*due, now + kShortestWait));
  } else {
    timer_.clear();
  }
}

void LogShipper::expired(Timer&) { wakeup_.wake(); }

uint64_t LogShipper::acknowledged(size_t source) const {
  return shipper_.acknowledged(static_cast<uint16_t>(source));
}

// Tells sources with a cursor how far they are safe.
void LogShipper::note_safe() {
  Spool* const spool = shipper_.spool();
  if (spool == nullptr) {
    for (size_t i = 0; i < sources_.size(); ++i) sources_[i].source->safe(acknowledged(i));
    return;
  }
  const bool syncs = config_.spool->sync.when != SyncPolicy::When::kNever;
  const uint64_t safe = syncs ? spool->synced_position() : spool->written_position();
  if (pending_ && safe >= pending_->position) {
    for (size_t i = 0; i < sources_.size(); ++i) sources_[i].source->safe(pending_->marks[i].seq);
    pending_.reset();
  }
  if (!pending_) pending_ = Pending{spool->appended_position(), spool->marks()};
}

void LogShipper::note_given() {
  const Instant now = monotonic_now();
  for (size_t i = 0; i < sources_.size(); ++i) {
    auto& given = sources_[i].given;
    const uint64_t seq = shipper_.buffer().mark(static_cast<uint16_t>(i)).seq;
    const uint64_t acked = acknowledged(i);
    while (!given.empty() && given.front().first <= acked) given.pop_front();
    if (seq <= acked || (!given.empty() && given.back().first == seq)) continue;
    // The time of an entry is that of its first number.
    const bool recent = given.size() > 1 && now < given.back().second + kGivenInterval;
    if (recent || given.size() >= kMostGiven) {
      given.back().first = seq;
    } else {
      given.emplace_back(seq, now);
    }
  }
}

void LogShipper::note_blocked() {
  const Instant now = monotonic_now();
  for (size_t i = 0; i < sources_.size(); ++i) {
    SourceState& source = sources_[i];
    source.rate->note(shipper_.buffer().received(static_cast<uint16_t>(i)).lines, now);
    const bool blocked_now = blocked(static_cast<uint16_t>(i));
    if (blocked_now && !source.blocked_since) source.blocked_since = now;
    if (blocked_now || !source.blocked_since) continue;
    source.blocked_before += now - *source.blocked_since;
    source.blocked_since.reset();
  }
}

namespace {

std::string reasons_of(const std::array<Tally, kDropReasons>& tallies) {
  std::string reasons;
  for (size_t reason = 0; reason < kDropReasons; ++reason) {
    if (tallies[reason].lines == 0) continue;
    reasons +=
        (reasons.empty() ? "" : ", ") + std::string(name_of(static_cast<DropReason>(reason)));
  }
  return reasons;
}

}  // namespace

bool LogShipper::has_unreported_drops() const {
  for (size_t i = 0; i < sources_.size(); ++i) {
    const auto& dropped = shipper_.buffer().dropped(static_cast<uint16_t>(i));
    if (sum_of(dropped).lines != sources_[i].reported) return true;
  }
  const Spool* const spool = shipper_.spool();
  return sum_of(explained_).lines != explained_reported_ ||
         (spool != nullptr && spool->segments_dropped() != segments_reported_);
}

void LogShipper::report_drops() {
  if (!has_unreported_drops()) return;
  next_report_ = loop_.now() + kReportInterval;
  for (size_t i = 0; i < sources_.size(); ++i) {
    SourceState& source = sources_[i];
    const auto& dropped = shipper_.buffer().dropped(static_cast<uint16_t>(i));
    const uint64_t lines = sum_of(dropped).lines;
    if (lines == source.reported) continue;
    log_warn("log shipping: {} lines of {} were dropped ({}), {} since the start",
             lines - source.reported, printable(source.spec.config.name), reasons_of(dropped),
             lines);
    source.reported = lines;
  }
  // How many lines a segment held shows when the next one is read, to be sent.
  if (const Spool* const spool = shipper_.spool();
      spool != nullptr && spool->segments_dropped() != segments_reported_) {
    log_warn("log shipping: the spool was full: {} of the oldest lines in it were given up",
             format_size((spool->segments_dropped() - segments_reported_) *
                         spool_file_.geometry.segment_size));
    segments_reported_ = spool->segments_dropped();
  }
  if (const uint64_t lines = sum_of(explained_).lines; lines != explained_reported_) {
    log_warn(
        "log shipping: {} lines behind their sources were dropped, in the spool or by the other "
        "end ({}), {} since the start",
        lines - explained_reported_, reasons_of(explained_), lines);
    explained_reported_ = lines;
  }
}

// --- the end ------------------------------------------------------------------------------------

void LogShipper::stop() {
  if (phase_ != Phase::kRunning) return;
  phase_ = Phase::kDraining;
  deadline_ = loop_.now() + config_.flush_timeout;
  for (const SourceState& state : sources_) state.source->drain();
  wakeup_.wake();
}

void LogShipper::stop_at_once() {
  if (phase_ == Phase::kRunning) stop();
  if (phase_ == Phase::kDraining || phase_ == Phase::kFlushing) deadline_ = loop_.now();
  wakeup_.wake();
}

bool LogShipper::all_acknowledged() const {
  if (!shipper_.stopped()) return false;
  const Spool* const spool = shipper_.spool();
  if (spool == nullptr) return true;
  return spool->logs().size() == 1 && spool->acked_position() >= spool->appended_position();
}

// Lines, dropped ones included; of a spool, those that are not in it.
uint64_t LogShipper::unacknowledged() const {
  const Spool* const spool = shipper_.spool();
  uint64_t lines = 0;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const uint64_t safe = spool != nullptr ? spool->marks()[i].seq : acknowledged(i);
    lines += shipper_.buffer().mark(static_cast<uint16_t>(i)).seq - safe;
  }
  return lines;
}

void LogShipper::go_on_stopping() {
  const bool late = loop_.now() >= deadline_;
  if (phase_ == Phase::kDraining) {
    const auto over = [](const SourceState& state) { return state.source->is_over(); };
    if (!late && !std::all_of(sources_.begin(), sources_.end(), over)) return;
    close_sources();
    shipper_.stop(false, loop_.now());
    pump();
    phase_ = Phase::kFlushing;
  }
  if (phase_ == Phase::kFlushing) {
    // What is in a spool need not wait for a channel that is not there, and nothing is left to
    // wait where every line is acknowledged.
    const bool safe = shipper_.spool() != nullptr ? shipper_.stopped() : unacknowledged() == 0;
    const bool kept = safe && link_ != Link::kOpen;
    if (!all_acknowledged() && !kept && !late) return;
    if (late) shipper_.stop(true, loop_.now());
    phase_ = Phase::kSyncing;
    deadline_ = loop_.now() + kSyncLimit;
    if (writer_) writer_->sync_now();
  }
  if (phase_ == Phase::kSyncing && (!writer_ || writer_->settled() || loop_.now() >= deadline_)) {
    finish_stopping();
  }
}

void LogShipper::close_sources() {
  closing_ = true;
  for (const SourceState& state : sources_) state.source->stop();
}

void LogShipper::finish_stopping() {
  phase_ = Phase::kStopped;
  if (writer_) writer_->stop();
  report_drops();
  const Spool* const spool = shipper_.spool();
  const uint64_t lost = unacknowledged();
  if (all_acknowledged() || (spool == nullptr && lost == 0)) {
    log_info("log shipping: everything is acknowledged");
  } else {
    if (spool != nullptr) {
      log_info("log shipping: {} bytes stay in the spool for the next start", spool_bytes());
    }
    if (lost > 0) {
      log_warn(
          "log shipping: {} lines are {}, and lost; dropped ones that the other end was not "
          "told of are among them",
          lost, spool != nullptr ? "held without room in the spool" : "not acknowledged");
    }
  }
  if (stream_ != nullptr) stream_->leave(Fault::kGoingAway);
}

}  // namespace virtproxy::logs
