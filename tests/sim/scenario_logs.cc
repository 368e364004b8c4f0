// Logs: a guest's daemon ships what programs write to its sources.
#include <algorithm>

#include "tests/sim/scenario.h"

namespace virtproxy::sim {
namespace {

constexpr double kShareOfLogs = 0.25;
constexpr Duration kToEndLogs = seconds(20);
constexpr uint64_t kMostOfSlow = 60'000;  // bytes
constexpr uint64_t kMostOfFast = 1'000'000;

}  // namespace

// Drawn apart: worlds without logs are what they were before there were any.
void Scenario::draw_logs() {
  Random random(world_.seed() ^ 0x106510651065ULL);
  if (!random.chance(kShareOfLogs)) return;
  const size_t at = random.below(links_.size());
  // With protocol 1 a device hides from a sender of logs that its receiver was replaced, and from a
  // receiver that its sender was: nothing ends the stream.
  if (expects_old(at) || changing_[at]) return;
  LogPlan plan;
  plan.channel = links_[at]->id();
  plan.memory = random.magnitude(96 << 10, 2 << 20);
  plan.flush_timeout = random.duration({}, seconds(5));
  const size_t sources = random.between(1, 3);
  for (size_t i = 0; i < sources; ++i) {
    logs::SourceConfig& source = plan.sources.emplace_back();
    source.name = std::to_string(i);
    source.full = static_cast<logs::Policy>(random.below(3));
    source.block_for = random.duration({}, seconds(3));
  }
  if (random.chance(0.5)) {
    plan.spool = random.magnitude(1 << 20, 4 << 20);
    using When = logs::SyncPolicy::When;
    plan.sync = {static_cast<When>(random.below(3)), random.duration(milliseconds(10), seconds(1))};
    if (random.chance(0.2)) world_.set_rate(Mishap::kDiskFails, 0.1);
  }
  plan.sink = static_cast<SinkKind>(random.below(3));
  plan.level = random.chance(0.5) ? logs::AckLevel::kSpool : logs::AckLevel::kSink;
  plan.budget = random.magnitude(4096, 4 << 20);
  plan.longest_write =
      Duration(static_cast<Duration::rep>(random.magnitude(10'000, 1'000'000'000)));
  const uint64_t seed = random.next();
  if (random.chance(0.3)) plan.refusals = static_cast<double>(random.magnitude(1, 1000)) / 10'000;
  ledger_ = std::make_unique<LogLedger>(plan, seed);
  places_[0].config.channels[at].collects = ledger_.get();
  places_[1 + at].config.channels.front().ships = ledger_.get();
}

void Scenario::begin_logs() {
  if (!ledger_) return;
  Random& random = ledger_->random();
  const SimulatedLink& link = *links_[ledger_->plan().channel - 1];
  const bool slow = link.speed() > 0 && link.speed() < kFast;
  for (size_t i = 0; i < ledger_->plan().sources.size(); ++i) {
    Path path;
    path.capacity = random.magnitude(4096, 256 << 10);
    path.spared = true;
    network_.set_path(log_path(i), path);
    LogWriter::Plan plan;
    plan.source = static_cast<uint16_t>(i);
    plan.address = log_path(i);
    plan.bytes = random.magnitude(1000, slow ? kMostOfSlow : kMostOfFast);
    plan.until = heals_at_;
    plan.longest = random.magnitude(32, 8192);
    plan.longest_pause = random.duration(milliseconds(1), seconds(1));
    writers_.push_back(std::make_unique<LogWriter>(network_, *ledger_, plan));
  }
  draw_log_misfortunes();
  for (size_t count = random.below(3); count > 0; --count) {
    const bool back = random.chance(0.5);
    world_.at(world_.now() + random.duration({}, heals_at_ - world_.now()), [this, back] {
      const Duration by = ledger_->random().duration({}, seconds(7200));
      world_.shift_wall(back ? -by : by);
    });
  }
}

// Beside what happens in any world: in most of these the ends of the channel are replaced, and it
// is cut, while lines are on their way.
void Scenario::draw_log_misfortunes() {
  Random& random = ledger_->random();
  if (random.chance(ledger_->disk() ? 0.2 : 0.5)) return;
  const size_t at = ledger_->plan().channel - 1;
  for (uint64_t count = random.between(1, ledger_->disk() ? 8 : 4); count > 0; --count) {
    const uint64_t what = random.below(3);
    world_.at(world_.now() + random.duration({}, heals_at_ - world_.now()), [this, at, what] {
      Random& chance = ledger_->random();
      if (world_.healed() || !attacks_.empty()) return;
      if (what == 2) return links_[at]->cut(guest_of(at), chance.chance(0.6));
      Place& place = places_[what == 0 ? 0 : 1 + at];
      if (!place.daemon) return;
      end_life(place, chance.chance(0.7),
               Duration(static_cast<Duration::rep>(chance.magnitude(1000, 2'000'000'000))));
    });
  }
}

bool Scenario::logs_settled() const {
  return !ledger_ ||
         (std::all_of(writers_.begin(), writers_.end(), [](const auto& w) { return w->over(); }) &&
          ledger_->settled());
}

// All of it has come and nothing is wrong any more: then the log is completed at once.
void Scenario::end_logs() {
  if (!ledger_) return;
  Daemon& guest = *guest_of(ledger_->plan().channel - 1);
  for (const auto& writer : writers_) writer->leave();
  guest.end_shipping();
  if (!run_until(world_.now() + kToEndLogs, [&guest] { return !guest.ships(); })) {
    world_.fail("liveness", "a log is not completed");
  }
  ledger_->check_settled();
}

}  // namespace virtproxy::sim
