#include "tests/sim/world.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace virtproxy::sim {
namespace {
World* current_world = nullptr;
}

World::World(uint64_t seed, bool printing, Canary canary, Drivers drivers)
    : seed_(seed),
      printing_(printing),
      canary_(canary),
      drivers_(drivers),
      random_(seed),
      now_(seconds(1000) + Duration(random_.below(1'000'000'000))) {
  current_world = this;
}

std::string_view drivers_name(Drivers drivers) {
  switch (drivers) {
    case Drivers::kIoUring:
      return "io_uring";
    case Drivers::kEpoll:
      return "epoll";
    case Drivers::kMixed:
      return "mixed";
  }
  return {};
}

World::~World() { current_world = nullptr; }

World& World::current() { return *current_world; }
World* World::current_or_null() { return current_world; }

bool World::canary_strikes(Canary which, double probability) {
  if (canary_ != which || canary_struck_ || !random_.chance(probability)) return false;
  trace("canary", static_cast<int>(which));
  return canary_struck_ = true;
}

void World::at(Instant when, std::function<void()> what) {
  events_.push_back({std::max(when, now_), ordered_++, std::move(what)});
  std::push_heap(events_.begin(), events_.end(), std::greater<>());
}

bool World::step() {
  if (events_.empty()) return false;
  std::pop_heap(events_.begin(), events_.end(), std::greater<>());
  const Event event = std::move(events_.back());
  events_.pop_back();
  now_ = std::max(now_, event.when);
  ++steps_;
  event.what();
  return true;
}

bool World::happens(Mishap mishap, unsigned channel) {
  if (!random_.chance(rate(mishap))) return false;
  count(mishap, channel);
  return true;
}

void World::count(Mishap mishap, unsigned channel) {
  ++counts_[static_cast<size_t>(mishap)];
  if (channel != 0 && channels_[channel].old()) ++old_counts_[static_cast<size_t>(mishap)];
}

void World::print(const std::string& line) {
  std::printf("%12.6f %s\n", static_cast<double>(now_.count()) / 1e9, line.c_str());
}

void World::fail(std::string_view oracle, const std::string& what) {
  std::fflush(stdout);
  std::fprintf(stderr, "FAILED seed %llu, oracle %.*s, step %llu, time %.6f s: %s\n",
               static_cast<unsigned long long>(seed_), static_cast<int>(oracle.size()),
               oracle.data(), static_cast<unsigned long long>(steps_),
               static_cast<double>(now_.count()) / 1e9, what.c_str());
  if (describer_) std::fprintf(stderr, "%s", describer_().c_str());
  std::fprintf(stderr, "replay with: virtproxy-sim --driver %s --seed %llu --trace\n",
               std::string(drivers_name(drivers_)).c_str(), static_cast<unsigned long long>(seed_));
  _exit(1);
}

}  // namespace virtproxy::sim
