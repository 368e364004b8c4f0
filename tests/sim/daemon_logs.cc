// The logs of a simulated daemon: what it ships, and what it collects.
#include <unistd.h>

#include <algorithm>
#include <array>

#include "tests/sim/daemon.h"
#include "tests/sim/link.h"

namespace virtproxy::sim {
namespace {

// Between the world's clock and that of a process.
constexpr Duration kClockSlack = milliseconds(5);

const std::string_view kRejected = logs::name_of(logs::DropReason::kRejected);

// What a shipper says of its sources, whose names are their numbers.
class ShipFigures final : public StatVisitor {
 public:
  explicit ShipFigures(size_t sources) : progress(sources) {}

  void visit(const StatInfo& info, const StatSample& sample) override {
    if (info.name == "ship_connected") connected = sample.value != 0;
    if (info.name == "ship_lines_explained" && sample.labels.front().value == kRejected) {
      refused = sample.value;
    }
    if (sample.labels.empty() || sample.labels.front().name != "source") return;
    LogLedger::Progress& of = progress.at(std::stoul(std::string(sample.labels.front().value)));
    if (info.name == "ship_lines_received") of.numbered = sample.value;
    if (info.name == "ship_lines_acknowledged") of.acknowledged = sample.value;
    if (info.name == "ship_source_blocked" && sample.value != 0) blocked = true;
  }

  std::vector<LogLedger::Progress> progress;
  uint64_t refused = 0;
  bool connected = false;
  bool blocked = false;
};

}  // namespace

std::optional<std::vector<Listening>> Daemon::bind_log_sources(const LogLedger& ledger) {
  std::vector<Listening> bound;
  for (size_t i = 0; i < ledger.plan().sources.size(); ++i) {
    auto listening = listen_on(to_unix_address(log_path(i)), {});
    if (!listening) {
      for (const Listening& mine : bound) {
        std::for_each(mine.sockets.begin(), mine.sockets.end(), close);
      }
      return std::nullopt;
    }
    bound.push_back(*std::move(listening));
  }
  return bound;
}

// What open_spool_file() does with a file that is there.
logs::SpoolFile Daemon::open_spool(Disk& disk) {
  logs::SpoolFile file;
  file.fd.reset(process_.add(std::make_shared<DiskFile>(disk)));
  file.geometry = *logs::spool_geometry_for(*ledger_->plan().spool);
  logs::SpoolRecovery recovery(file.geometry);
  while (recovery.phase() != logs::SpoolRecovery::Phase::kDone) {
    recovery.read(logs::read_now(file.fd.get(), recovery.next_read()));
  }
  file.recovered = recovery.state();
  return file;
}

// For the channel that was made last, before it is started.
void Daemon::add_logs(const DaemonChannel& config, std::vector<Listening> sources) {
  if (config.collects != nullptr) {
    hub_ = std::make_unique<SimulatedHub>(*config.collects, process_);
    collector_ = std::make_unique<LogCollector>(*loop_, *hub_, 0);
    forwards_.back()->add_built_in(kLogService, *collector_);
  }
  if (config.ships == nullptr) return;
  ledger_ = config.ships;
  logs::ShipStart start;
  start.config.memory = ledger_->plan().memory;
  start.config.flush_timeout = ledger_->plan().flush_timeout;
  for (size_t i = 0; i < sources.size(); ++i) {
    logs::OpenedSource& source = start.sources.emplace_back();
    source.spec.kind = logs::SourceKind::kUnix;
    source.spec.config = ledger_->plan().sources[i];
    source.listening = std::move(sources[i]);
    start.config.sources.push_back(source.spec);
  }
  if (Disk* disk = ledger_->disk()) {
    start.config.spool = {
        .path = "/sim/spool", .size = *ledger_->plan().spool, .sync = ledger_->plan().sync};
    start.spool = open_spool(*disk);
  }
  start.log = ledger_->begin_log();
  start.boot = {1, 1};
  life_ = ledger_->lives();
  shipper_ = std::make_unique<logs::LogShipper>(*loop_, *channels_.back(), std::move(start));
  shipper_->start();
}

void Daemon::end_shipping() {
  const Process::Running running(process_);
  if (!ships()) return;
  ledger_->begin_end(life_);
  // A loop's time is that of its last turn.
  gives_up_at_ = last_turn_ + ledger_->plan().flush_timeout;
  shipper_->stop();
  World::current().at(*gives_up_at_, [] {});
}

void Daemon::end_collecting() {
  if (collector_) collector_->stop();
  if (hub_) hub_->end();
}

// Not as part of its process: what is asked here takes it no time.
void Daemon::check_logs() {
  if (!shipper_ || process_.dead()) return;
  ShipFigures figures(ledger_->plan().sources.size());
  shipper_->visit_stats(figures, World::current().now());
  bool all = true;
  for (size_t i = 0; i < figures.progress.size(); ++i) {
    const LogLedger::Progress& progress = figures.progress[i];
    ledger_->check_progress(life_, static_cast<uint16_t>(i), progress);
    all = all && progress.numbered == progress.acknowledged;
  }
  ledger_->check_refused(figures.refused);
  if (figures.connected && !connected_) ledger_->note_stream(life_);
  if (figures.blocked) ledger_->note_blocked();
  connected_ = figures.connected;
  World& world = World::current();
  if (!shipper_->stopped()) return;
  const bool late = world.now() + kClockSlack >= *gives_up_at_;
  if (!ledger_->disk() && !all && !late) {
    world.fail("logs", config_.name + ": gives up lines before its time");
  }
  ledger_->end_log(life_, late);
}

}  // namespace virtproxy::sim
