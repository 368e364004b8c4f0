// Hostile programs in the place of a daemon.
#include <algorithm>

#include "tests/sim/scenario.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy::sim {
namespace {

constexpr double kShareOfHostile = 0.3;
constexpr double kShareOfStrange = 0.2;
constexpr uint64_t kMostStrangers = 24;  // more than may wait
constexpr Duration kLeastTime = seconds(2);
constexpr Duration kLeastAttack = milliseconds(200);
constexpr Duration kMostAttack = seconds(3);
constexpr uint64_t kMostRestarts = 4;

}  // namespace

void Scenario::draw_hostility() { hostile_ = random_.chance(kShareOfHostile); }

void Scenario::draw_attacks() {
  if (!hostile_) return;
  const Instant now = world_.now();
  heals_at_ = std::max(heals_at_, now + kLeastTime);
  const size_t count = random_.between(1, 3);
  for (size_t i = 0; i < count; ++i) {
    world_.at(now + random_.duration({}, heals_at_ - now - kLeastAttack), [this] { attack(); });
  }
}

// Drawn apart: worlds without strangers are what they were before there were any.
void Scenario::draw_strangers() {
  strange_ = Random(world_.seed() ^ 0x57A46E5ULL).chance(kShareOfStrange);
}

// The first may be there before the honest peer. Only of channels whose ends greet: an end of
// version 1 cannot tell one that is silent from one that has no clients.
void Scenario::send_strangers(const Place& place, unsigned channel) {
  const size_t at = channel - 1;
  const ChannelSpec& spec =
      &place == places_.data() ? links_[at]->host_spec() : links_[at]->guest_spec();
  if (!strange_ || settled_ || !transport_listens(spec.transport)) return;
  if (expects_old(at) || changing_[at]) return;
  const auto connect = [this, name = network_name(spec.address)] {
    const auto listener = network_.find(name);
    if (settled_ || !listener || !listener->listening() || listener->backlog_full()) return;
    world_.count(Mishap::kSilentStranger);
    rejected_peers_.push_back(std::make_shared<Socket>(listener->family()));
    rejected_peers_.back()->connect_to(listener, network_.path(name));
  };
  if (random_.chance(0.5)) connect();
  for (size_t left = random_.below(kMostStrangers); left > 0; --left) {
    world_.after(random_.duration({}, seconds(2)), connect);
  }
}

// Whose place is taken is killed first.
void Scenario::attack() {
  const size_t which = random_.below(links_.size());
  Place& place = places_[random_.chance(0.5) ? 1 + which : 0];
  if (world_.healed() || !place.daemon || !attacks_.empty()) return;
  take_down(place, true);
  attacks_.push_back({&place, {}});
  for (const auto& link : links_) {
    const auto& ends = place.channels;
    if (std::find(ends.begin(), ends.end(), link->id()) != ends.end()) attack(place, *link);
  }
  world_.after(random_.duration(kLeastAttack, kMostAttack), [this] { end_attacks(); });
}

void Scenario::attack(Place& place, SimulatedLink& link) {
  const size_t at = link.id() - 1;
  const bool host = &place == places_.data();
  const size_t far = host ? 1 + at : 0;
  world_.count(Mishap::kHostilePeer, link.id());
  world_.channel(link.id()).begin_hostility();
  Target target;
  target.channel = link.id();
  const size_t index = host ? 0 : at;  // of the channel in the attacked daemon
  for (const ForwardSpec& forward : places_[far].config.channels[index].forwards.iforwards) {
    target.services.push_back(forward.service);
  }
  target.epoch_key = [this, far, index] {
    const Daemon* daemon = places_[far].daemon.get();
    return daemon == nullptr ? HashKey{} : daemon->config().channels[index].epoch_key;
  };
  attacks_.back().peers.push_back(std::make_unique<HostilePeer>(
      network_, host ? link.host_spec() : link.guest_spec(), std::move(target),
      [this, id = link.id()] { send_clients(id, milliseconds(300)); }));
  if (random_.chance(0.3)) return;
  const size_t restarts = random_.between(1, kMostRestarts);
  for (size_t i = 0; i < restarts; ++i) {
    world_.after(random_.duration({}, kMostAttack), [this, far, at] { disturb_attacked(far, at); });
  }
}

void Scenario::disturb_attacked(size_t far, size_t link) {
  Place& place = places_[far];
  if (world_.healed() || attacks_.empty() || !place.daemon) return;
  const auto& peers = attacks_.front().peers;
  const unsigned id = links_[link]->id();
  const bool attacked =
      std::any_of(peers.begin(), peers.end(), [id](const auto& p) { return p->channel() == id; });
  if (!attacked) return;
  end_life(place, random_.chance(0.8), random_.duration({}, milliseconds(100)));
  // A device keeps the two ends' lives apart: the other end may come first, or find it there.
  if (links_[link]->hides() && random_.chance(0.7)) {
    for (const auto& peer : peers) {
      if (peer->channel() == id) peer->leave_for(random_.duration({}, milliseconds(200)));
    }
  }
}

void Scenario::send_clients(unsigned channel, Duration within) {
  if (attacks_.empty() || !world_.channel(channel).hostile_since(world_.now())) return;
  const bool on_host = attacks_.front().place != places_.data();
  for (size_t i = 0; i < routes_.size(); ++i) {
    if (routes_[i].channel != channel || routes_[i].from_host != on_host) continue;
    for (uint64_t clients = random_.below(3); clients > 0; --clients) {
      world_.after(random_.duration({}, within), [this, i] {
        if (!world_.healed()) connect_client(i, false);
      });
    }
  }
}

// The honest daemons come back.
void Scenario::end_attacks() {
  for (Attack& attack : std::exchange(attacks_, {})) {
    for (const auto& peer : attack.peers) {
      ChannelRecord& record = world_.channel(peer->channel());
      record.disturb(world_.now());
      record.end_hostility(world_.now());
    }
    const auto here = static_cast<size_t>(attack.place - places_.data());
    for (const auto& peer : std::exchange(attack.peers, {})) {
      const size_t at = peer->channel() - 1;
      Place& far = places_[here == 0 ? 1 + at : 0];
      // It may be in a session of protocol 2 with the hostile program, and is not told that this
      // was replaced by an end that does not greet. Whoever puts that there restarts it, too.
      if (links_[at]->hides() && mode(here, at) == ProtocolMode::kV1 && far.daemon) {
        end_life(far, true, milliseconds(1));
      }
    }
    start(*attack.place);
  }
}

}  // namespace virtproxy::sim
