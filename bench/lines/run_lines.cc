#include "lines/run_lines.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "clock.h"
#include "environment.h"
#include "histogram_log.h"
#include "interval_log.h"
#include "lines/sink_reader.h"
#include "lines/writers.h"
#include "noise.h"

namespace virtproxy::bench::lines {
namespace {

constexpr int kWaitMs = 5;
constexpr int64_t kTick = 50 * kMillisecond;
// The processes are sampled when nothing has arrived for so long, and again when it goes on.
constexpr int64_t kQuiet = 20 * kMillisecond;

// How long nothing may have come when all has arrived.
constexpr int64_t kLinger = 50 * kMillisecond;

double seconds_of(int64_t ns) { return static_cast<double>(ns) / kSecond; }

double own_cpu() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double time_of_day() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

class LinesRun {
 public:
  explicit LinesRun(const LinesPlan& plan)
      : plan_(plan),
        reader_(plan.shape),
        audit_(plan.shape),
        writers_(plan),
        intervals_(plan.interval, plan.pids, plan.process_trees) {
    if (plan.sink) {
      sink_ = std::make_unique<SinkReader>(
          *plan.sink, plan.sink_framing,
          // Writers elsewhere may have begun before.
          plan.source ? SinkReader::Begin::kEnd : SinkReader::Begin::kStart,
          [this](std::string_view message, bool whole) { on_message(message, whole); });
    }
    if (!plan.histogram_log.empty()) log_.emplace(plan.histogram_log, time_of_day());
  }

  LinesResult run();

 private:
  void on_message(std::string_view message, bool whole);
  bool take_line(std::string_view text, bool json, bool whole_text);
  uint64_t limit_of(uint32_t writer) const;
  bool complete() const;
  void sample_processes(ProcessSample ProcessResult::*when);
  void emit_interval(int64_t now);
  void wait_for_all();
  void read_again();
  void judge();
  void judge_machine(const MachineSample& from, const MachineSample& to);

  const LinesPlan& plan_;
  const LineReader reader_;
  Audit audit_;
  Writers writers_;
  std::unique_ptr<SinkReader> sink_;
  IntervalLog intervals_;
  std::optional<HistogramLog> log_;
  std::vector<Tick> ticks_;
  int64_t start_ = 0;
  int64_t writers_done_ = 0;
  int64_t last_arrival_ = 0;
  uint64_t unfinished_ = 0;
  uint64_t interval_sent_ = 0;
  uint64_t interval_delivered_ = 0;
  bool again_ = false;
  LinesResult result_;
};

// Numbers from there on were never written.
uint64_t LinesRun::limit_of(uint32_t writer) const {
  if (!plan_.source) return plan_.count > 0 ? plan_.count : uint64_t{1} << 40;
  return writer < plan_.shape.writers ? writers_.stats(writer).used.load(std::memory_order_acquire)
                                      : 0;
}

// Takes the line if `text` is one, intact and not longer than it claims.
bool LinesRun::take_line(std::string_view text, bool json, bool whole_text) {
  ParsedLine line = reader_.read(text);
  if (line.verdict == Verdict::kForeign) return false;
  const bool ends =
      json ? line.end < text.size() && text[line.end] == '"' : line.end == text.size();
  if (line.verdict == Verdict::kGood && !ends) line.verdict = Verdict::kCorrupted;
  if (line.verdict == Verdict::kCorrupted && !whole_text) return false;
  if (again_ || !plan_.source) line.time_ns = 0;
  audit_.arrived(line, now_ns(), limit_of(line.writer));
  return true;
}

void LinesRun::on_message(std::string_view message, bool whole) {
  if (!whole) {
    ++unfinished_;
    return;
  }
  const MessageFormat format = format_of(message);
  // A line without anything to escape is found as it is, whatever is around it.
  if (plan_.shape.named() && take_line(message, format == MessageFormat::kJson, false)) return;
  const Unpacked inside = unpack(message);
  if (inside.dropped > 0) {
    if (inside.at_most) {
      audit_.told_at_most(inside.dropped);
    } else {
      audit_.told(inside.reason, inside.dropped);
    }
    return;
  }
  if (!inside.valid || !take_line(inside.text, false, true)) audit_.foreign();
}

bool LinesRun::complete() const {
  if (!sink_) return true;
  const uint64_t expected =
      plan_.source ? writers_.sent() : plan_.count * static_cast<uint64_t>(plan_.shape.writers);
  return expected > 0 && audit_.delivered() + audit_.told().lines >= expected;
}

void LinesRun::sample_processes(ProcessSample ProcessResult::*when) {
  for (ProcessResult& process : result_.processes) {
    process.*when = sample_process(process.pid, plan_.process_trees);
  }
}

void LinesRun::emit_interval(int64_t now) {
  if (!intervals_.due(now)) return;
  const uint64_t sent = writers_.sent();
  const double seconds = intervals_.length(now);
  nlohmann::ordered_json fields = {
      {"sent_per_second", static_cast<double>(sent - interval_sent_) / seconds},
      {"delivered_per_second",
       static_cast<double>(audit_.delivered() - interval_delivered_) / seconds},
      {"sent", sent},
      {"delivered", audit_.delivered()},
      {"told_dropped", audit_.told().lines},
      {"doubled", audit_.total().doubled}};
  const Histogram ages = audit_.take_interval_ages();
  if (ages.count() > 0) {
    fields["age_ns"] = {
        {"p50", ages.percentile(50)}, {"p99", ages.percentile(99)}, {"max", ages.max()}};
  }
  if (log_) log_->add(intervals_.begin(), seconds, ages);
  interval_sent_ = sent;
  interval_delivered_ = audit_.delivered();
  intervals_.write(now, fields);
}

// Until everything arrived or was told of, or nothing comes any more.
void LinesRun::wait_for_all() {
  bool sampled = false;
  uint64_t arrivals = 0;
  int64_t moved = start_;
  for (;;) {
    bool any = false;
    if (sink_) {
      any = sink_->poll(kWaitMs);
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(kWaitMs));
    }
    const int64_t now = now_ns();
    if (audit_.arrivals() + audit_.told().records != arrivals) {
      arrivals = audit_.arrivals() + audit_.told().records;
      moved = last_arrival_ = now;
      sampled = false;
    }
    if (ticks_.empty() || now - ticks_.back().time >= kTick) {
      if (writers_done_ == 0) ticks_.push_back({now, sink_ ? audit_.delivered() : writers_.sent()});
    }
    emit_interval(now);
    if (writers_done_ == 0 && writers_.done()) {
      writers_done_ = moved = now;
      if (!sink_) last_arrival_ = now;
    }
    Outcome outcome = Outcome::kOk;
    if (!writers_.failure(outcome).empty() || interrupted()) writers_.stop();
    if (writers_done_ == 0) continue;
    if (!any && !sampled && now - moved >= kQuiet) {
      sample_processes(&ProcessResult::after);
      sampled = true;
    }
    if (interrupted() || seconds_of(now - moved) >= plan_.settle) break;
    // What comes twice comes late.
    if (complete() && (!sink_ || now - moved >= kLinger)) break;
  }
  if (!sampled) sample_processes(&ProcessResult::after);
}

// What is in the file at the end is what counts.
void LinesRun::read_again() {
  again_ = true;
  result_.read_again = true;
  result_.ages = audit_.ages();
  audit_ = Audit(plan_.shape);
  unfinished_ = 0;
  sink_->read_again();
}

void LinesRun::judge_machine(const MachineSample& from, const MachineSample& to) {
  NoiseResult& noise = result_.noise;
  const double total = to.total - from.total;
  if (result_.seconds >= NoiseResult::kMinSeconds && total > 0) {
    noise.steal = (to.steal - from.steal) / total;
    noise.iowait = (to.iowait - from.iowait) / total;
    noise.foreign =
        std::max(0.0, to.busy - from.busy - result_.own_cpu - result_.processes_cpu()) / total;
    noise.foreign_known = !plan_.pids.empty();
  }
  judge_noise(ticks_, false, noise);
}

void LinesRun::judge() {
  LinesResult& r = result_;
  const auto conclude = [&r](bool bad, Outcome outcome, std::string text) {
    if (!bad || r.outcome != Outcome::kOk) return;
    r.outcome = outcome;
    r.failure = std::move(text);
  };
  if (!sink_ || plan_.tolerance == Tolerance::kAll) return;
  conclude(r.count.corrupted > 0, Outcome::kCorrupted,
           fmt::format("{} lines arrived with wrong bytes", r.count.corrupted));
  conclude(r.count.doubled > 0, Outcome::kCorrupted,
           fmt::format("{} lines arrived twice", r.count.doubled));
  conclude(r.count.reordered > 0, Outcome::kCorrupted,
           fmt::format("{} lines arrived behind a later one of their writer", r.count.reordered));
  conclude(r.unaccounted() > static_cast<int64_t>(r.told.at_most), Outcome::kLost,
           fmt::format("{} of {} lines are lost and nothing tells of them; the first of writer {}",
                       r.unaccounted(), r.sent, r.missing));
  conclude(r.unaccounted() < 0, Outcome::kCorrupted,
           fmt::format("drop records tell of {} lines that are not missing", -r.unaccounted()));
}

LinesResult LinesRun::run() {
  for (const pid_t pid : plan_.pids) {
    ProcessResult process;
    process.pid = pid;
    process.name = process_name(pid);
    process.idle = process.before = sample_process(pid, plan_.process_trees);
    if (!process.idle.alive) {
      throw Failure(Outcome::kUsage, fmt::format("there is no process {}", pid));
    }
    result_.processes.push_back(process);
  }
  pin_thread(plan_.cpus, 1);
  const double cpu = own_cpu();
  const MachineSample machine = sample_machine();
  start_ = last_arrival_ = now_ns();
  intervals_.start(start_);
  writers_.start();
  wait_for_all();
  writers_.stop();
  writers_.join();
  if (sink_) {
    sink_->finish();
    result_.ages = audit_.ages();
    if (sink_->taken_back()) read_again();
  }
  LinesResult& r = result_;
  r.failure = writers_.failure(r.outcome);
  if (interrupted() && r.outcome == Outcome::kOk) {
    r.outcome = Outcome::kInterrupted;
    r.failure = "interrupted";
  }
  r.sent = plan_.source ? writers_.sent() : plan_.count * plan_.shape.writers;
  r.measured = r.sent > 0 || r.outcome == Outcome::kOk;
  r.write_seconds = seconds_of(writers_done_ - start_);
  r.seconds = seconds_of(last_arrival_ - start_);
  r.count = audit_.total();
  r.told = audit_.told();
  r.foreign = audit_.foreign_lines();
  r.unfinished = unfinished_;
  r.has_ages = plan_.source && plan_.sink && plan_.shape.named();
  r.writers = audit_.writers();
  for (uint32_t i = 0; i < plan_.shape.writers; ++i) {
    const uint64_t sent = plan_.source ? writers_.stats(i).sent.load() : plan_.count;
    r.sent_by_writer.push_back(sent);
    if (r.missing.empty() && sink_ && r.writers[i].delivered < sent) {
      r.missing = fmt::format("{}: {}", i, audit_.describe_missing(i, sent, 4));
    }
    if (!plan_.source) continue;
    r.longest_write_ns = std::max(r.longest_write_ns, writers_.stats(i).longest_write_ns.load());
    r.reconnects += writers_.stats(i).reconnects.load();
  }
  r.own_cpu = own_cpu() - cpu;
  judge_machine(machine, sample_machine());
  judge();
  if (log_) {
    if (!intervals_.enabled()) {
      log_->add(0, r.seconds, r.ages);
    } else if (const Histogram rest = audit_.take_interval_ages(); rest.count() > 0) {
      log_->add(intervals_.begin(), intervals_.length(now_ns()), rest);
    }
    log_->close();
  }
  return std::move(result_);
}

}  // namespace

double LinesResult::processes_cpu() const {
  double sum = 0;
  for (const ProcessResult& process : processes) sum += process.cpu();
  return sum;
}

LinesResult run_lines(const LinesPlan& plan) {
  install_signals(nullptr);
  allow_descriptors(plan.shape.writers + 64);
  LinesRun run(plan);
  return run.run();
}

}  // namespace virtproxy::bench::lines
