// virtproxy-sim: runs simulated worlds, one for each seed.
#include <time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <map>
#include <string>

#include "tests/sim/scenario.h"
#include "uring/base/log.h"
#include "uring/base/text.h"
#include "uring/base/units.h"

namespace virtproxy::sim {
namespace {

struct Options {
  std::optional<uint64_t> seed;
  std::string seeds;
  double seconds = 0;
  bool trace = false;
  bool twice = false;
  bool every_mishap = false;
  std::string canary = "none";
  Drivers drivers = Drivers::kIoUring;
};

const std::map<std::string, Canary> kCanaries{
    {"none", Canary::kNone},
    {"drop-byte", Canary::kDropByte},
    {"swap-bytes", Canary::kSwapBytes},
    {"leak-descriptor", Canary::kLeakDescriptor},
    {"keep-credit", Canary::kKeepCredit},
    {"block-reader", Canary::kBlockReader},
    {"lose-reset", Canary::kLoseReset},
    {"lose-completion", Canary::kLoseCompletion},
    {"reset-stream", Canary::kResetStream},
    {"end-session", Canary::kEndSession},
    {"withhold", Canary::kWithhold},
    {"withhold-first", Canary::kWithholdFirst},
    {"raise-limit", Canary::kRaiseLimit},
    {"overcommit", Canary::kOvercommit},
    {"leak-buffer", Canary::kLeakBuffer},
    {"leak-slot", Canary::kLeakSlot},
    {"part-at-once", Canary::kPartAtOnce},
    {"leave-rest", Canary::kLeaveRest},
    {"end-when-killed", Canary::kEndWhenKilled},
    {"keep-request", Canary::kKeepRequest},
    {"early-poll", Canary::kEarlyPoll},
    {"forget-link", Canary::kForgetLink},
    {"keep-silent", Canary::kKeepSilent},
    {"keep-listening", Canary::kKeepListening},
    {"wrong-done", Canary::kWrongDone},
    {"release-twice", Canary::kReleaseTwice},
    {"read-clock", Canary::kReadClock},
    {"hold-back", Canary::kHoldBack},
    {"never-recheck", Canary::kNeverRecheck},
    {"misdirect", Canary::kMisdirect},
    {"keep-ended", Canary::kKeepEnded},
    {"admit-early", Canary::kAdmitEarly},
    {"lose-edge", Canary::kLoseEdge},
    {"forget-interest", Canary::kForgetInterest},
    {"swap-events", Canary::kSwapEvents},
    {"lose-alarm", Canary::kLoseAlarm},
    {"lose-line", Canary::kLoseLine},
    {"line-twice", Canary::kLineTwice},
    {"forget-drop", Canary::kForgetDrop},
    {"miscount-drop", Canary::kMiscountDrop},
    {"forget-refusal", Canary::kForgetRefusal},
    {"ack-early", Canary::kAckEarly},
    {"ack-beyond", Canary::kAckBeyond},
    {"lose-ack", Canary::kLoseAck},
    {"keep-tail", Canary::kKeepTail},
    {"old-account", Canary::kOldAccount},
    {"reuse-log", Canary::kReuseLog},
    {"lose-write", Canary::kLoseWrite},
    {"lose-sync", Canary::kLoseSync},
};

struct Tally {
  uint64_t seeds = 0;
  uint64_t turns = 0;
  Exchange::Totals totals;
  Exchange::Judgements judgements;
  MishapCounts mishaps{};
  MishapCounts old_mishaps{};
  uint64_t piped = 0;
  LogLedger::Counts logs;
  Duration simulated{};
};

// Each of them must be more than nothing.
std::vector<std::pair<const char*, uint64_t>> log_figures(const LogLedger::Counts& logs) {
  return {{"worlds", logs.worlds},
          {"lines written", logs.written},
          {"lines at the sink", logs.delivered},
          {"lines dropped", logs.dropped},
          {"lines twice", logs.again},
          {"lines refused", logs.refused},
          {"refusals told", logs.told},
          {"lines lost", logs.lost},
          {"streams", logs.streams},
          {"streams resumed", logs.resumed},
          {"blocked sources", logs.blocked},
          {"lines of an end", logs.spooled}};
}

// The simulation has its own clock; this is the real one.
double real_seconds() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

uint64_t run_seed(uint64_t seed, const Options& options, Tally& tally) {
  World world(seed, options.trace, kCanaries.at(options.canary), options.drivers);
  const Instant began = world.now();
  uint64_t hash = 0;
  {
    Scenario scenario(world);
    scenario.run();
    hash = world.hash();
    ++tally.seeds;
    tally.turns += scenario.turns();
    const Exchange::Totals totals = scenario.totals();
    tally.totals.complete += totals.complete;
    tally.totals.abnormal += totals.abnormal;
    tally.totals.bytes += totals.bytes;
    const Exchange::Judgements& judgements = scenario.judgements();
    tally.judgements.made += judgements.made;
    tally.judgements.beside_stalled += judgements.beside_stalled;
    tally.judgements.skipped += judgements.skipped;
    tally.judgements.old += judgements.old;
    for (size_t i = 0; i < kMishaps; ++i) {
      tally.mishaps[i] += world.counts()[i];
      tally.old_mishaps[i] += world.old_counts()[i];
    }
    tally.piped += world.piped();
    tally.logs.add(scenario.log_counts());
    tally.simulated += world.now() - began;
  }
  return hash;
}

void report(const Tally& tally, double elapsed) {
  std::printf("%llu seeds in %.1f s (%.0f a second), %.0f s simulated, %llu turns\n",
              static_cast<unsigned long long>(tally.seeds), elapsed,
              static_cast<double>(tally.seeds) / elapsed,
              std::chrono::duration<double>(tally.simulated).count(),
              static_cast<unsigned long long>(tally.turns));
  std::printf("%llu directions complete, %llu broken, %llu bytes checked, %llu piped\n",
              static_cast<unsigned long long>(tally.totals.complete),
              static_cast<unsigned long long>(tally.totals.abnormal),
              static_cast<unsigned long long>(tally.totals.bytes),
              static_cast<unsigned long long>(tally.piped));
  const Exchange::Judgements& judgements = tally.judgements;
  std::printf(
      "independence judged %llu times, %llu beside a stalled application, %llu of protocol "
      "1, %llu skipped\n",
      static_cast<unsigned long long>(judgements.made),
      static_cast<unsigned long long>(judgements.beside_stalled),
      static_cast<unsigned long long>(judgements.old),
      static_cast<unsigned long long>(judgements.skipped));
  for (const auto& [name, count] : log_figures(tally.logs)) {
    std::printf("  logs: %-16s %llu\n", name, static_cast<unsigned long long>(count));
  }
  for (size_t i = 0; i < kMishaps; ++i) {
    const auto mishap = static_cast<Mishap>(i);
    std::printf("  %-22s %llu", std::string(mishap_name(mishap)).c_str(),
                static_cast<unsigned long long>(tally.mishaps[i]));
    if (is_of_channel(mishap)) {
      std::printf(", of protocol 1 %llu", static_cast<unsigned long long>(tally.old_mishaps[i]));
    }
    std::printf("\n");
  }
}

int run(const Options& options) {
  uint64_t first = 1;
  uint64_t last = UINT64_MAX;
  if (options.seed) {
    first = last = *options.seed;
  } else if (!options.seeds.empty()) {
    const size_t dots = options.seeds.find("..");
    const auto from = parse_number<uint64_t>(options.seeds.substr(0, dots));
    const auto to =
        dots == std::string::npos ? from : parse_number<uint64_t>(options.seeds.substr(dots + 2));
    if (!from || !to) {
      std::fprintf(stderr, "--seeds %s: write A..B, two numbers\n",
                   printable(options.seeds).c_str());
      return 2;
    }
    first = *from;
    last = *to;
  }
  Tally tally;
  const double began = real_seconds();
  double said = began;
  for (uint64_t seed = first;; ++seed) {
    const uint64_t hash = run_seed(seed, options, tally);
    if (options.twice && run_seed(seed, options, tally) != hash) {
      std::fprintf(stderr, "FAILED seed %llu, oracle trace, the same seed ran differently\n",
                   static_cast<unsigned long long>(seed));
      return 1;
    }
    if (options.seed) {
      std::printf("seed %llu trace %016llx\n", static_cast<unsigned long long>(seed),
                  static_cast<unsigned long long>(hash));
    }
    const double now = real_seconds();
    if (seed == last || (options.seconds > 0 && now - began > options.seconds)) break;
    if (now - said > 60) {
      said = now;
      std::printf("seed %llu, %.0f seeds a second\n", static_cast<unsigned long long>(seed),
                  static_cast<double>(tally.seeds) / (now - began));
      std::fflush(stdout);
    }
  }
  report(tally, real_seconds() - began);
  if (!options.every_mishap) return 0;
  int missing = 0;
  for (size_t i = 0; i < kMishaps; ++i) {
    const auto mishap = static_cast<Mishap>(i);
    if (options.drivers == Drivers::kEpoll && is_of_ring(mishap)) continue;
    const bool old = is_of_channel(mishap) && tally.mishaps[i] > 0;
    if ((old ? tally.old_mishaps : tally.mishaps)[i] > 0) continue;
    std::fprintf(stderr, "FAILED: %s has never happened%s\n",
                 std::string(mishap_name(mishap)).c_str(), old ? " with protocol 1" : "");
    ++missing;
  }
  if (tally.judgements.beside_stalled == 0) {
    std::fprintf(stderr, "FAILED: independence was never judged beside a stalled application\n");
    ++missing;
  }
  if (tally.judgements.old == 0) {
    std::fprintf(stderr, "FAILED: independence was never judged with protocol 1\n");
    ++missing;
  }
  for (const auto& [name, count] : log_figures(tally.logs)) {
    if (count > 0) continue;
    std::fprintf(stderr, "FAILED: logs: %s: none\n", name);
    ++missing;
  }
  return missing == 0 ? 0 : 1;
}

// Which seed it was that crashed.
void say_seed() {
  std::fflush(stdout);
  if (const World* world = World::current_or_null()) {
    std::fprintf(stderr, "FAILED seed %llu, oracle crash, step %llu\n",
                 static_cast<unsigned long long>(world->seed()),
                 static_cast<unsigned long long>(world->steps()));
  }
}

}  // namespace
}  // namespace virtproxy::sim

extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

int main(int argc, char** argv) {
  virtproxy::sim::Options options;
  CLI::App app("Runs the daemons in simulated worlds, each drawn from a seed.", "virtproxy-sim");
  app.add_option("--seed", options.seed, "replay this one");
  app.add_option("--seeds", options.seeds, "from A to B, written A..B; without it, on and on");
  app.add_option("--seconds", options.seconds, "stop after so many seconds");
  app.add_flag("--trace", options.trace, "print what happens, with virtual time");
  app.add_flag("--twice", options.twice, "run every seed twice and compare the traces");
  app.add_flag("--every-mishap", options.every_mishap,
               "fail when a kind of mishap or judgement never happened");
  using virtproxy::sim::Drivers;
  std::map<std::string, Drivers> drivers;
  for (const Drivers one : {Drivers::kIoUring, Drivers::kEpoll, Drivers::kMixed}) {
    drivers.emplace(virtproxy::sim::drivers_name(one), one);
  }
  app.add_option("--driver", options.drivers, "what the daemons wait with; mixed: each its own")
      ->transform(CLI::CheckedTransformer(drivers));
  std::vector<std::string> names;
  for (const auto& [name, canary] : virtproxy::sim::kCanaries) names.push_back(name);
  app.add_option("--canary", options.canary, "break the world on purpose")
      ->check(CLI::IsMember(names));
  CLI11_PARSE(app, argc, argv);
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(virtproxy::sim::say_seed);
  } else {
    for (const int number : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE}) {
      std::signal(number, [](int caught) {
        virtproxy::sim::say_seed();
        std::signal(caught, SIG_DFL);
        std::raise(caught);
      });
    }
  }
  virtproxy::set_log_level(options.trace ? virtproxy::LogLevel::kDebug
                                         : virtproxy::LogLevel::kInfo);
  return virtproxy::sim::run(options);
}
