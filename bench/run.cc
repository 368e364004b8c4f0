#include "run.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <exception>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "client.h"
#include "environment.h"
#include "histogram_log.h"
#include "interval_log.h"
#include "noise.h"
#include "progress.h"
#include "sink.h"
#include "stall_watch.h"

namespace virtproxy::bench {
namespace {

constexpr int64_t kTick = 50 * kMillisecond;
// After a first failure the others get this long to show themselves, for an honest count.
constexpr int64_t kGather = 200 * kMillisecond;

// A drain that still moves bytes may take so many times the stall limit.
constexpr double kDrainLimits = 6;

enum class Stage { kOpening, kWarming, kMeasuring, kDraining };

const char* stage_name(Stage stage) {
  constexpr std::array<const char*, 4> kNames = {"opening", "warming up", "measuring", "draining"};
  return kNames[static_cast<size_t>(stage)];
}

double seconds_between(int64_t from, int64_t to) {
  return static_cast<double>(to - from) / static_cast<double>(kSecond);
}

// A consistent look at everything that is reported as a difference.
struct Snapshot {
  int64_t time = 0;
  uint64_t up = 0, down = 0, exchanges = 0, exchange_bytes = 0;
  rusage own{};
  MachineSample machine;

  double own_cpu() const {
    const auto seconds = [](const timeval& tv) {
      return static_cast<double>(tv.tv_sec) + static_cast<double>(tv.tv_usec) * 1e-6;
    };
    return seconds(own.ru_utime) + seconds(own.ru_stime);
  }
};

class Supervisor {
 public:
  explicit Supervisor(const Plan& plan)
      : plan_(plan),
        sink_(plan.listen ? std::make_unique<Sink>(std::vector{*plan.listen}, plan.sockets,
                                                   plan.http_connect)
                          : nullptr),
        client_(plan, state_, sink_ ? &sink_->counters() : nullptr),
        line_(plan, plan.progress),
        intervals_(plan.interval, plan.pids, plan.process_trees) {
    if (!plan.histogram_log.empty()) {
      timespec now{};
      ::clock_gettime(CLOCK_REALTIME, &now);
      log_.emplace(plan.histogram_log,
                   static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / kSecond);
    }
  }

  RunResult run();

 private:
  template <typename Done>
  bool wait(Stage stage, Done done);
  void enter(Phase phase);
  Snapshot look() const;
  uint64_t moved_up() const;
  uint64_t moved_down() const;
  uint64_t moved() const;
  uint64_t drain_progress();
  uint64_t progress() const;
  void run_phases();
  void measure();
  void emit_interval(int64_t now, Stage stage);
  void finish_result();
  void collect_window(const Snapshot& from, const Snapshot& to);
  void spawn();
  void join();

  const Plan& plan_;
  RunState state_;
  std::unique_ptr<Sink> sink_;
  Client client_;
  ProgressLine line_;
  IntervalLog intervals_;
  std::optional<HistogramLog> log_;
  Snapshot interval_from_;
  std::thread client_thread_;
  std::thread sink_thread_;
  std::vector<Tick> ticks_;
  uint64_t sink_sent_ = 0;
  bool stalled_ = false;
  RunResult result_;
};

void Supervisor::enter(Phase phase) {
  state_.phase.store(phase, std::memory_order_release);
  client_.wake();
}

Snapshot Supervisor::look() const {
  Snapshot snapshot;
  snapshot.machine = sample_machine();
  ::getrusage(RUSAGE_SELF, &snapshot.own);
  snapshot.time = now_ns();
  snapshot.up = moved_up();
  snapshot.down = moved_down();
  snapshot.exchanges = state_.counters.exchanges.get();
  snapshot.exchange_bytes = state_.counters.exchange_bytes.get();
  return snapshot;
}

uint64_t Supervisor::moved_up() const {
  return sink_ ? sink_->counters().stream_received.get() : state_.counters.stream_sent.get();
}

uint64_t Supervisor::moved_down() const { return state_.counters.stream_received.get(); }

uint64_t Supervisor::moved() const {
  return plan_.stream_count() == 0 ? state_.counters.exchanges.get() : moved_up() + moved_down();
}

uint64_t Supervisor::progress() const {
  return state_.counters.progress() + (sink_ ? sink_->counters().progress() : 0);
}

// While draining, bytes that the sink still generates are no progress: it would have stopped if the
// client's end of stream had reached it.
uint64_t Supervisor::drain_progress() {
  if (!sink_) return progress();
  const Counters& sink = sink_->counters();
  const bool generating = sink.stream_sent.get() != sink_sent_;
  sink_sent_ = sink.stream_sent.get();
  return sink.stream_received.get() + state_.counters.exchange_bytes.get() + state_.closed.get() +
         (generating ? 0 : state_.counters.stream_received.get());
}

// Ticks until done() or until the client is finished; false when the run must end now.
template <typename Done>
bool Supervisor::wait(Stage stage, Done done) {
  const bool draining = stage == Stage::kDraining;
  const int64_t start = now_ns();
  const double limit =
      stage == Stage::kOpening ? std::max(plan_.stall_limit, plan_.wait + 1) : plan_.stall_limit;
  const auto current = [&] { return draining ? drain_progress() : progress(); };
  // One direction of a stream must not stand still while the other flows.
  const bool both_flow = stage == Stage::kMeasuring && plan_.stream_count() > 0 &&
                         plan_.direction == Role::kStreamBoth && plan_.bytes == 0;
  StallWatch watch(start, current());
  StallWatch up(start, moved_up());
  StallWatch down(start, moved_down());
  for (;;) {
    const int64_t now = now_ns();
    if (stage == Stage::kMeasuring) ticks_.push_back({now, moved()});
    emit_interval(now, stage);
    if (state_.failed.load(std::memory_order_acquire)) {
      const timespec pause{0, kGather};
      ::nanosleep(&pause, nullptr);
      return false;
    }
    if (interrupted()) return false;
    if (done(now) || state_.finished.load()) return true;
    const bool idle = state_.waiting_for.get() == 0;
    stalled_ = watch.stalled(now, current(), idle, limit) ||
               up.stalled(now, moved_up(), !both_flow, limit) ||
               down.stalled(now, moved_down(), !both_flow, limit) ||
               (draining && seconds_between(start, now) > limit * kDrainLimits);
    if (stalled_) return false;
    line_.show(stage_name(stage), now, start, moved(), state_.counters.exchanges.get());
    const int64_t pause = std::clamp<int64_t>(intervals_.next() - now_ns(), 0, kTick);
    state_.wait_until(std::chrono::steady_clock::now() + std::chrono::nanoseconds(pause));
  }
}

void Supervisor::emit_interval(int64_t now, Stage stage) {
  if (!intervals_.due(now)) return;
  const Snapshot to = look();
  const Snapshot& from = interval_from_;
  const double seconds = intervals_.length(now);
  nlohmann::ordered_json fields = {{"stage", stage_name(stage)}};
  if (plan_.stream_count() > 0) {
    fields["bytes_per_second"] =
        static_cast<double>(to.up + to.down - from.up - from.down) / seconds;
  }
  if (plan_.counts_messages()) {
    const uint64_t messages = plan_.mode == Mode::kOneWay ? (to.up - from.up) / plan_.size
                                                          : to.exchanges - from.exchanges;
    fields["messages_per_second"] = static_cast<double>(messages) / seconds;
  }
  intervals_.write(now, fields);
  interval_from_ = to;
}

void Supervisor::measure() {
  for (ProcessResult& process : result_.processes) {
    process.before = sample_process(process.pid, plan_.process_trees);
  }
  const Snapshot from = look();
  enter(Phase::kMeasure);
  intervals_.start(from.time);
  interval_from_ = from;
  const int64_t end =
      plan_.bytes != 0 ? INT64_MAX : from.time + static_cast<int64_t>(plan_.duration * kSecond);
  const bool complete = wait(Stage::kMeasuring, [end](int64_t now) { return now >= end; });
  const Snapshot to = look();
  for (ProcessResult& process : result_.processes) {
    process.after = sample_process(process.pid, plan_.process_trees);
  }
  if (!complete) return;
  collect_window(from, to);
  enter(Phase::kDrain);
  wait(Stage::kDraining, [](int64_t) { return false; });
}

void Supervisor::run_phases() {
  const int64_t start = now_ns();
  if (!wait(Stage::kOpening, [this](int64_t) { return state_.opened.load(); })) return;
  result_.opening_seconds = seconds_between(start, now_ns());
  enter(Phase::kWarmup);
  const int64_t warm = now_ns() + static_cast<int64_t>(plan_.warmup * kSecond);
  if (wait(Stage::kWarming, [warm](int64_t now) { return now >= warm; })) measure();
}

void Supervisor::collect_window(const Snapshot& from, const Snapshot& to) {
  RunResult& r = result_;
  r.measured = true;
  r.seconds = seconds_between(from.time, to.time);
  r.bytes_up = to.up - from.up;
  r.bytes_down = to.down - from.down;
  r.counted_at_sink = sink_ != nullptr;
  r.exchange_bytes = to.exchange_bytes - from.exchange_bytes;
  r.messages =
      plan_.mode == Mode::kOneWay ? r.bytes_up / plan_.size : to.exchanges - from.exchanges;
  r.own_cpu = to.own_cpu() - from.own_cpu();
  r.own_voluntary = static_cast<uint64_t>(to.own.ru_nvcsw - from.own.ru_nvcsw);
  r.own_involuntary = static_cast<uint64_t>(to.own.ru_nivcsw - from.own.ru_nivcsw);

  NoiseResult& noise = r.noise;
  const double total = to.machine.total - from.machine.total;
  if (r.seconds >= NoiseResult::kMinSeconds && total > 0) {
    noise.steal = (to.machine.steal - from.machine.steal) / total;
    noise.iowait = (to.machine.iowait - from.machine.iowait) / total;
    const double busy = to.machine.busy - from.machine.busy;
    noise.foreign = std::max(0.0, busy - r.own_cpu - r.processes_cpu()) / total;
  }
  const bool direct = plan_.listen && plan_.listen->text == plan_.connect.front().text;
  noise.foreign_known = r.seconds >= NoiseResult::kMinSeconds && (direct || !r.processes.empty());
  noise.involuntary = static_cast<double>(r.own_involuntary) / std::max(r.seconds, 1e-9);
  judge_noise(ticks_, !noise.foreign_known && plan_.cpus.empty(), noise);
}

void Supervisor::spawn() {
  const auto guarded = [this](size_t cpu_index, auto body) {
    return std::thread([this, cpu_index, body] {
      try {
        pin_thread(plan_.cpus, cpu_index);
        body();
      } catch (const Failure& failure) {
        state_.fail(failure.outcome(), failure.what());
      } catch (const std::exception& error) {
        state_.fail(Outcome::kConnectFailed, error.what());
      }
    });
  };
  if (sink_) sink_thread_ = guarded(1, [this] { sink_->run(); });
  client_thread_ = guarded(0, [this] { client_.run(); });
}

void Supervisor::join() {
  enter(Phase::kAbort);
  client_thread_.join();
  if (!sink_) return;
  sink_->stop();
  sink_thread_.join();
}

void Supervisor::finish_result() {
  RunResult& r = result_;
  const RunState::Report report = state_.report();
  const size_t total = client_.connections().size();
  if (report.outcome != Outcome::kOk) {
    r.outcome = report.outcome;
    r.failure = report.text;
    if (report.connections > 1) {
      r.failure += fmt::format(" ({} of {} connections)", report.connections, total);
    }
    for (const ProcessResult& process : r.processes) {
      if (!sample_process(process.pid, false).alive) {
        r.failure += fmt::format("; process {} ({}) is gone", process.pid, process.name);
      }
    }
  } else if (stalled_) {
    r.outcome = Outcome::kStalled;
    r.failure = fmt::format("no progress for {:g} s: {} of {} connections stuck ({})",
                            plan_.stall_limit, client_.stuck(), total, client_.describe_stuck());
  } else if (interrupted()) {
    r.outcome = Outcome::kInterrupted;
    r.failure = "interrupted";
  }
  r.sink_mismatches = sink_ ? sink_->counters().mismatches.get() : 0;
  if (r.sink_mismatches > 0 && r.outcome != Outcome::kCorrupted) {
    r.outcome = Outcome::kCorrupted;
    r.failure = fmt::format("the sink received wrong bytes on {} connections", r.sink_mismatches);
  }
  r.latency = client_.latency();
  r.backlog = client_.backlog();
  const auto& connections = client_.connections();
  r.least_moved = UINT64_MAX;
  for (size_t i = 0; i < plan_.stream_count(); ++i) {
    const uint64_t moved = connections[i].moved_in_window;
    r.least_moved = std::min(r.least_moved, moved);
    r.most_moved = std::max(r.most_moved, moved);
    r.mean_moved += static_cast<double>(moved) / static_cast<double>(plan_.stream_count());
  }
  if (plan_.stream_count() == 0) r.least_moved = 0;
}

RunResult Supervisor::run() {
  for (const pid_t pid : plan_.pids) {
    ProcessResult process;
    process.pid = pid;
    process.name = process_name(pid);
    process.idle = sample_process(pid, plan_.process_trees);
    if (!process.idle.alive) {
      throw Failure(Outcome::kUsage, fmt::format("there is no process {}", pid));
    }
    result_.processes.push_back(process);
  }
  pin_thread(plan_.cpus, 0);
  spawn();
  run_phases();
  line_.clear();
  join();
  finish_result();
  if (log_) {
    log_->add(0, result_.seconds, result_.latency);
    log_->close();
  }
  return std::move(result_);
}

}  // namespace

RunResult run_plan(const Plan& plan) {
  install_signals(nullptr);
  const size_t ends = plan.stream_count() + plan.exchange_count();
  allow_descriptors(ends * (plan.listen ? 2 : 1) + 64);
  Supervisor supervisor(plan);
  return supervisor.run();
}

}  // namespace virtproxy::bench
