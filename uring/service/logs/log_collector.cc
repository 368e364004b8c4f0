#include "uring/service/logs/log_collector.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <utility>

#include "core/assert.h"
#include "uring/base/clock.h"
#include "uring/base/text.h"
#include "uring/service/logs/account_file.h"

namespace virtproxy {
namespace {

// What the receiver is fed at once, bytes.
constexpr size_t kFeed = 64u << 10;
constexpr Duration kLeastBackoff = std::chrono::milliseconds(500);
constexpr Duration kMostBackoff = std::chrono::seconds(60);
// A stream that lasted as long without a fault ends the back-off.
constexpr Duration kStableAfter = std::chrono::seconds(60);
// Lines that the other end drops are reported together: what comes within kDropReportDelay of the
// first, and then at most once in kDropReportInterval.
constexpr Duration kDropReportDelay = std::chrono::seconds(1);
constexpr Duration kDropReportInterval = std::chrono::minutes(1);

}  // namespace

// The stream's end here. It keeps what has arrived and was not fed yet, and what is to be sent.
class LogCollector::Stream final : public Endpoint {
 public:
  Stream(LogCollector& collector, StreamHandle& handle) : collector_(&collector), handle_(handle) {}
  ~Stream() override { leave(); }

  void start() override {
    if (collector_ != nullptr) handle_.accepted();
  }
  void deliver(std::span<const std::byte> bytes, ReadBuffer*) override {
    if (handle_.is_over()) return;
    pending_.insert(pending_.end(), bytes.begin(), bytes.end());
    handle_.want_flush();
  }
  void peer_ended() override {
    peer_ended_ = true;
    handle_.want_flush();
  }
  void peer_broke_off() override { end_by_reset(Fault::kAborted); }
  void flush(bool) override {
    if (collector_ != nullptr) collector_->work();
  }
  void may_queue() override { send(); }
  OutSegment take(uint32_t bytes) override {
    const size_t size = std::min<size_t>(bytes, out_.size() - sent_);
    const auto part = std::span(out_).subspan(sent_, size);
    sent_ += size;
    return {.bytes = part};
  }
  void abort(Fault fault) override { over(fault); }
  void finish() override { over(Fault::kNone); }
  void let_go() override {}
  bool idle() const override { return true; }

  // --- for the collector
  bool ended() const { return handle_.is_over(); }
  std::span<const std::byte> pending() const { return std::span(pending_).subspan(fed_); }
  void fed(size_t bytes) {
    fed_ += bytes;
    if (fed_ == pending_.size()) {
      pending_.clear();
      fed_ = 0;
    } else if (fed_ >= (1u << 20)) {
      pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(fed_));
      fed_ = 0;
    }
    handle_.consumed(bytes);
  }
  // Everything was fed: the sender's end, if it has come, is passed on.
  void all_fed() {
    if (!peer_ended_ || !pending().empty() || std::exchange(end_told_, true)) return;
    handle_.eof_delivered();
    // A sender that ends its direction reads nothing more that is of use to it.
    end_output();
  }
  // Ends the direction to the sender behind what was written, and feeds nothing any more. A reset
  // would discard the last acknowledgements, so that the sender would send their lines again.
  void finish_output() {
    if (peer_ended_ && !pending().empty()) fed(pending().size());
    end_output();
  }
  void stall(bool stalled) {
    if (stalled == stalled_ || handle_.is_over()) return;
    stalled_ = stalled;
    stalled ? handle_.stall() : handle_.unstall();
  }
  void write(std::vector<std::byte>& bytes) {
    if (bytes.empty()) return;
    if (output_ == Output::kOpen) {
      // What was queued and not taken stays in its place.
      out_.erase(out_.begin(), out_.begin() + static_cast<ptrdiff_t>(sent_));
      queued_ -= sent_;
      sent_ = 0;
      out_.insert(out_.end(), bytes.begin(), bytes.end());
      send();
    }
    bytes.clear();
  }
  void end_by_reset(Fault fault) {
    if (handle_.is_over()) return;
    handle_.reset(fault);
    over(fault);
  }
  void leave() {
    if (collector_ == nullptr) return;
    collector_->stream_ = nullptr;
    collector_->receiver_.lost();
    collector_ = nullptr;
  }

 private:
  enum class Output : uint8_t {
    kOpen,
    kEnding,  // once all of out_ is queued
    kEnded
  };

  void end_output() {
    if (output_ == Output::kOpen) output_ = Output::kEnding;
    send();
  }
  void send() {
    if (handle_.is_over() || output_ == Output::kEnded) return;
    while (queued_ < out_.size()) {
      const uint64_t bytes = std::min<uint64_t>(out_.size() - queued_, handle_.request_credit());
      if (bytes == 0) return;
      queued_ += bytes;
      handle_.queue(bytes);
    }
    if (output_ == Output::kOpen) return;
    output_ = Output::kEnded;
    handle_.end();
  }
  void over(Fault fault) {
    if (handle_.has_ended()) return;
    stall(false);
    leave();
    handle_.over(fault);
  }

  LogCollector* collector_;  // null once another stream may be opened
  StreamHandle& handle_;
  std::vector<std::byte> pending_;
  size_t fed_ = 0;  // bytes of pending_
  std::vector<std::byte> out_;
  size_t queued_ = 0;  // bytes of out_ that the session knows
  size_t sent_ = 0;    // … and has taken
  bool peer_ended_ = false;
  bool end_told_ = false;
  Output output_ = Output::kOpen;
  bool stalled_ = false;
};

LogCollector::LogCollector(Loop& loop, ParcelHub& hub, size_t vm)
    : loop_(loop),
      hub_(hub),
      vm_(vm),
      label_(hub.vm(vm)),
      receiver_(AccountFile::kLogs),
      box_(std::make_shared<ReplyBox>()),
      wake_op_(this),
      wakeup_(loop, this),
      report_timer_(loop.timers(), this) {
  box_->collector = this;
  std::vector<logs::LogAccount> accounts = hub.restored(vm);
  for (const logs::LogAccount& log : accounts) safe_.push_back({log.id, log.position});
  receiver_.restore(std::move(accounts));
  loop_.driver().read(wake_op_, {box_->mailbox.fd(), -1}, &wake_count_, sizeof wake_count_);
}

LogCollector::~LogCollector() { VP_ASSERT(stream_ == nullptr && idle()); }

tl::expected<std::unique_ptr<Endpoint>, Fault> LogCollector::open(StreamHandle& stream,
                                                                  std::span<const std::byte>) {
  if (state_ != State::kServing) return tl::unexpected(Fault::kGoingAway);
  if (stream_ != nullptr || loop_.now() < refused_until_) {
    ++refused_;
    return tl::unexpected(Fault::kNoResources);
  }
  auto endpoint = std::make_unique<Stream>(*this, stream);
  stream_ = endpoint.get();
  return endpoint;
}

void LogCollector::complete(Op&, Outcome) {
  box_->mailbox.run();
  if (state_ == State::kStopped) return;
  loop_.driver().read(wake_op_, {box_->mailbox.fd(), -1}, &wake_count_, sizeof wake_count_);
}

void LogCollector::run_deferred() {
  wakeup_.begin();
  work();
}

void LogCollector::work() {
  TurnBudget budget(loop_);
  while (stream_ != nullptr && state_ == State::kServing && !stream_->pending().empty() &&
         has_budget()) {
    if (!budget.left()) {
      wakeup_.wake();
      break;
    }
    take(stream_->pending().first(std::min(stream_->pending().size(), kFeed)));
    budget.spend();
  }
  if (stream_ == nullptr) return;
  stream_->stall(!has_budget());
  stream_->write(receiver_.out());
  if (state_ == State::kDraining && given_ == 0) stream_->finish_output();
  stream_->all_fed();
}

void LogCollector::take(std::span<const std::byte> bytes) {
  found_.clear();
  const auto& accounts = receiver_.accounts();
  const logs::LogId oldest = accounts.empty() ? logs::LogId{} : accounts.front().id;
  const logs::StreamFault fault = receiver_.feed(bytes, found_);
  if (!found_.empty()) pass_on(found_, oldest);
  stream_->fed(bytes.size());
  if (fault != logs::StreamFault::kNone) return break_off(fault);
}

// All of it is of one log: another one begins behind an acknowledgement only.
void LogCollector::pass_on(const std::vector<logs::Received>& found, const logs::LogId& oldest) {
  auto parcel = std::make_shared<Parcel>();
  bool final = false;
  size_t text = 0;
  for (const logs::Received& received : found) text += received.record.line.bytes.size();
  parcel->text.reserve(text);
  parcel->records.reserve(found.size());
  for (const logs::Received& received : found) {
    if (received.kind == logs::Received::Kind::kBegun) on_begun();
    final |= received.kind == logs::Received::Kind::kFinal;
    count(received);
    report(received);
    parcel->add(received);
  }
  rate_.note(received_.lines, monotonic_now());
  if (parcel->records.empty() && !final) return;
  parcel->vm = vm_;
  parcel->account = receiver_.accounts().back();
  parcel->account.finished |= final;
  parcel->forgotten = oldest;
  parcel->received = unix_now();
  parcel->arrived = monotonic_now();
  parcel->reply = box_;
  held_ += parcel->cost();
  ++given_;
  hub_.submit(std::move(parcel));
}

// The stream before may have ended with an acknowledgement under way.
void LogCollector::on_begun() {
  const logs::LogAccount& log = receiver_.accounts().back();
  std::erase_if(safe_, [&](const Safe& safe) {
    const auto& all = receiver_.accounts();
    return std::none_of(all.begin(), all.end(),
                        [&](const logs::LogAccount& each) { return each.id == safe.log; });
  });
  for (const Safe& safe : safe_) {
    if (safe.log == log.id) receiver_.acknowledge(safe.position, hub_.level());
  }
}

void LogCollector::released(const ParcelRelease& release) {
  held_ -= release.cost;
  --given_;
  const auto known = std::find_if(safe_.begin(), safe_.end(),
                                  [&](const Safe& safe) { return safe.log == release.log; });
  if (known == safe_.end()) {
    safe_.push_back({release.log, release.position});
  } else {
    known->position = std::max(known->position, release.position);
  }
  refused(release.log, release.refused);
  const logs::LogAccount* const log = receiver_.log();
  if (log != nullptr && log->id == release.log) {
    if (release.finished) {
      receiver_.acknowledge_final(hub_.level());
    } else {
      receiver_.acknowledge(release.position, hub_.level());
    }
  }
  wakeup_.wake();
}

void LogCollector::refused(const logs::LogId& log, const std::vector<Parcel::Refused>& lines) {
  if (lines.empty()) return;
  for (const Parcel::Refused& line : lines) {
    receiver_.reject(log, line.source, line.seq, line.bytes);
    // Not of a line that an earlier process received.
    delivered_.lines -= std::min<uint64_t>(delivered_.lines, 1);
    delivered_.bytes -= std::min(delivered_.bytes, line.bytes);
    dropped_[static_cast<size_t>(logs::DropReason::kRejected)].add(1, line.bytes);
  }
  wakeup_.wake();
}

void LogCollector::break_off(logs::StreamFault fault) {
  ++faults_;
  if (loop_.now() >= refused_until_ + kStableAfter) backoff_ = Duration::zero();
  backoff_ = std::clamp(backoff_ * 2, kLeastBackoff, kMostBackoff);
  refused_until_ = loop_.now() + backoff_;
  log_warn("channel {}: the log stream is reset: {}; the next one is refused for {} ms", label_,
           logs::describe(fault),
           std::chrono::duration_cast<std::chrono::milliseconds>(backoff_).count());
  stream_->end_by_reset(Fault::kAborted);
}

void LogCollector::count(const logs::Received& received) {
  using Kind = logs::Received::Kind;
  const logs::Record& record = received.record;
  switch (received.kind) {
    case Kind::kLine:
      delivered_.add(1, record.line.bytes.size());
      break;
    case Kind::kHead:
    case Kind::kDrop:
      count_dropped(record.drop);
      break;
    case Kind::kUnaccounted:
    case Kind::kForgotten:
      unaccounted_.add(record.drop.count, record.drop.bytes);
      break;
    case Kind::kBegun:
    case Kind::kFinal:
      return;
  }
  const logs::Tally covered = record.covers();
  received_.add(covered.lines, covered.bytes);
}

void LogCollector::count_dropped(const logs::DropRecord& drop) {
  dropped_[static_cast<size_t>(drop.reason)].add(drop.count, drop.bytes);
  if (report_timer_.armed()) return;
  report_timer_.set(std::max(loop_.now() + kDropReportDelay, next_report_));
}

void LogCollector::expired(Timer&) { report_dropped(); }

void LogCollector::report_dropped() {
  logs::Tally since;
  uint64_t lines = 0;
  std::string reasons;
  for (size_t i = 0; i < dropped_.size(); ++i) {
    const auto reason = static_cast<logs::DropReason>(i);
    if (reason == logs::DropReason::kRejected) continue;  // by a sink of this end
    const uint64_t more = dropped_[i].lines - reported_[i].lines;
    lines += dropped_[i].lines;
    if (more == 0) continue;
    since.add(more, dropped_[i].bytes - reported_[i].bytes);
    reasons += (reasons.empty() ? "" : ", ") + std::string(logs::name_of(reason)) + " " +
               std::to_string(more);
  }
  reported_ = dropped_;
  if (since.lines == 0) return;
  log_warn(
      "channel {}: the other end dropped {} lines ({} bytes) of its logs: {}; {} since the start",
      label_, since.lines, since.bytes, reasons, lines);
  next_report_ = loop_.now() + kDropReportInterval;
}

void LogCollector::report(const logs::Received& received) {
  using Kind = logs::Received::Kind;
  if (received.kind != Kind::kUnaccounted && received.kind != Kind::kForgotten) return;
  const auto hidden = unaccounted_limit_.allow(loop_.now());
  if (!hidden) return;
  const logs::DropRecord& drop = received.record.drop;
  if (received.kind == Kind::kForgotten) {
    log_warn(
        "channel {}: {} lines ({} bytes) at most unaccounted: a log that its sender never "
        "completed is given up{}",
        label_, drop.count, drop.bytes, and_others(*hidden));
    return;
  }
  log_warn("channel {}: {} lines ({} bytes) unaccounted in source {}, from number {} on{}", label_,
           drop.count, drop.bytes,
           in_quotes(receiver_.accounts().back().sources[received.source].name), drop.first,
           and_others(*hidden));
}

void LogCollector::drain() {
  if (state_ != State::kServing) return;
  state_ = State::kDraining;
  wakeup_.wake();
}

void LogCollector::stop() {
  state_ = State::kStopped;
  report_timer_.clear();
  report_dropped();
  if (stream_ != nullptr) stream_->end_by_reset(Fault::kGoingAway);
  loop_.driver().cancel(wake_op_);
}

namespace {

constexpr StatInfo kLines{"log_lines", "Lines numbered by the guest that arrived, dropped or not",
                          StatKind::kCounter};
constexpr StatInfo kLineBytes{"log_lines_size", "Bytes of the lines that arrived, dropped or not",
                              StatKind::kCounter, StatUnit::kBytes};
constexpr StatInfo kDelivered{"log_delivered", "Lines that arrived whole", StatKind::kCounter};
constexpr StatInfo kDropped{"log_dropped", "Lines that the guest dropped, by reason",
                            StatKind::kCounter};
constexpr StatInfo kUnaccounted{
    "log_unaccounted", "Lines that were neither delivered nor explained", StatKind::kCounter};
constexpr StatInfo kFaults{"log_stream_faults", "Log streams that broke the protocol",
                           StatKind::kCounter};
constexpr StatInfo kRefused{"log_streams_refused",
                            "Log streams refused: another one was open, or after a fault",
                            StatKind::kCounter};
constexpr StatInfo kRate{"log_lines_rate", "Lines a second that arrive, of the last 10 s or so"};
constexpr StatInfo kHeld{"log_held", "Memory of lines that are not safe in all sinks yet",
                         StatKind::kGauge, StatUnit::kBytes};
constexpr StatInfo kSource{"log_source_lines",
                           "Lines of a source of the current log, by what became of them"};

}  // namespace

void LogCollector::visit_stats(StatVisitor& visitor) const {
  visitor.visit(kLines, {received_.lines, "log_lines"});
  visitor.visit(kLineBytes, {received_.bytes, "log_bytes"});
  visitor.visit(kDelivered, {delivered_.lines, "log_delivered"});
  for (size_t i = 0; i < dropped_.size(); ++i) {
    const StatLabel label{"reason", logs::name_of(static_cast<logs::DropReason>(i))};
    visitor.visit(kDropped, {dropped_[i].lines, "log_dropped", {&label, 1}});
  }
  visitor.visit(kUnaccounted, {unaccounted_.lines, "log_unaccounted"});
  visitor.visit(kFaults, {faults_, "log_faults"});
  visitor.visit(kRefused, {refused_, ""});
  visitor.visit(kHeld, {held_, "log_held"});
  visitor.visit(kRate, {rate_.per_second(monotonic_now())});
  const logs::LogAccount* const log = receiver_.log();
  if (log == nullptr) return;
  for (const logs::SourceAccount& source : log->sources) {
    const logs::Tally dropped = logs::sum_of(source.dropped);
    const std::string name = printable(source.name);
    // The guest chooses the names: those of one log may be equal.
    const std::string number = std::to_string(&source - log->sources.data());
    const auto visit = [&](std::string_view what, uint64_t lines) {
      const StatLabel labels[] = {{"source", name}, {"number", number}, {"state", what}};
      visitor.visit(kSource, {lines, {}, labels});
    };
    visit("delivered", source.delivered.lines);
    visit("dropped", dropped.lines);
    visit("unaccounted", source.unaccounted.lines);
  }
}

}  // namespace virtproxy
