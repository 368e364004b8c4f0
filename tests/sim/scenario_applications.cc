// Clients and services: what they do is drawn, and when clients come.
#include "tests/sim/scenario.h"

namespace virtproxy::sim {

Plan Scenario::polite_plan() {
  Plan plan;
  plan.total = 8 + random_.magnitude(1, 20'000);
  plan.write_piece = static_cast<size_t>(random_.magnitude(512, 65536));
  plan.read_piece = static_cast<size_t>(random_.magnitude(512, 65536));
  return plan;
}

Plan Scenario::draw_plan(unsigned channel) {
  if (world_.healed()) return polite_plan();
  Plan plan;
  plan.total =
      8 + (random_.chance(0.1) ? random_.magnitude(1, 400'000) : random_.magnitude(1, 30'000));
  plan.write_piece = static_cast<size_t>(random_.magnitude(64, 65536));
  plan.read_piece = static_cast<size_t>(random_.magnitude(64, 65536));
  if (random_.chance(0.3)) {
    plan.write_pause = Duration(static_cast<Duration::rep>(random_.magnitude(1000, 5'000'000)));
  }
  if (random_.chance(0.3)) {
    plan.read_pause = Duration(static_cast<Duration::rep>(random_.magnitude(1000, 5'000'000)));
  }
  if (bulky_ && random_.chance(0.2)) {
    plan.total = 8 + random_.magnitude(256 << 10, 4 << 20);
    plan.write_piece = plan.read_piece = 65536;
    plan.write_pause = plan.read_pause = {};
  }
  if (!unruly_) return plan;
  if (random_.chance(0.15)) {
    world_.count(Mishap::kApplicationCrawls, channel);
    plan.read_piece = static_cast<size_t>(random_.between(1, 16));
    plan.read_pause = random_.duration(milliseconds(1), milliseconds(20));
  }
  // Long enough beside those that stand still.
  if (random_.chance(0.1)) {
    plan.total = 8 + random_.magnitude(4'000, 30'000);
    plan.write_piece = static_cast<size_t>(random_.between(64, 128));
    plan.write_pause = random_.duration(milliseconds(5), milliseconds(40));
  }
  if (random_.chance(0.2)) {
    world_.count(Mishap::kApplicationStalls, channel);
    plan.stall_at = random_.magnitude(8, 30'000);
    plan.stall_until = random_.chance(0.5)
                           ? heals_at_
                           : world_.now() + random_.duration(milliseconds(10), seconds(3));
  }
  if (random_.chance(0.25)) {
    plan.ending = random_.chance(0.5) ? Plan::Ending::kReset : Plan::Ending::kVanish;
    plan.ending_at = random_.between(8, plan.total);
  }
  if (random_.chance(0.1)) {
    plan.ending = Plan::Ending::kVanish;
    plan.ending_at = plan.total;
    plan.stall_at = random_.magnitude(8, 30'000);
    plan.stall_until = heals_at_;
  }
  return plan;
}

void Scenario::draw_clients(Instant until) {
  const size_t count = random_.magnitude(4, bulky_ ? 30 : 120);
  for (size_t i = 0; i < count; ++i) {
    const size_t route = random_.below(routes_.size());
    world_.at(world_.now() + random_.duration({}, until - world_.now()),
              [this, route] { connect_client(route, false); });
  }
}

void Scenario::connect_client(size_t index, bool polite) {
  const Route& route = routes_[index];
  const std::string name = network_name(route.client_end);
  const auto listener = network_.find(name);
  if (!listener || listener->backlog_full()) return;
  const auto socket = std::make_shared<Socket>(listener->family());
  socket->connect_to(listener, network_.path(name));
  exchange_.add(Application::Role::kClient, route, socket,
                polite ? polite_plan() : draw_plan(route.channel));
}

void Scenario::connect_polite_clients() {
  for (size_t route = 0; route < routes_.size(); ++route) connect_client(route, true);
}

}  // namespace virtproxy::sim
