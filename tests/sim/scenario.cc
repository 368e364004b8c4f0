#include "tests/sim/scenario.h"

#include <fmt/format.h>

#include <algorithm>

namespace virtproxy::sim {
namespace {

constexpr uint64_t kMostSteps = 20'000'000;
constexpr Duration kToMeet = seconds(20);
constexpr Duration kToFinish = seconds(120);
constexpr Duration kToProbe = seconds(60);
constexpr Duration kToEnd = seconds(20);
// … where bytes of an earlier life, or a stream of protocol 1, may still be on their way out.
constexpr Duration kToRest = seconds(3);
constexpr Duration kToRestOfOld = seconds(7);
constexpr double kShareOfOld = 0.2;
constexpr double kShareOfOldAmongHostile = 0.4;
constexpr Duration kCheckInterval = milliseconds(200);
constexpr Duration kPatience = milliseconds(1500);
// Where more would be needed nobody can tell a slow line from a stream that was forgotten.
constexpr Duration kMostPatience = seconds(5);
// A daemon gives up what an application had sent before it left when none of it moves for 5 s.
constexpr Duration kLongTurn = seconds(4);
// What was noticed late on a line that hides it has had its time.
constexpr Duration kToSettle = seconds(17);
// Streams that a turn may open and forget again before anybody has counted them.
constexpr size_t kUncounted = 2;

// The highest probability of each mishap; a seed draws which of them it knows, and how often.
struct Row {
  Mishap mishap;
  double most;
};
constexpr Row kRates[] = {
    {Mishap::kShortRead, 0.9},      {Mishap::kShortWrite, 0.9},     {Mishap::kLateCompletion, 0.3},
    {Mishap::kSpuriousWake, 0.2},   {Mishap::kInterrupted, 0.1},    {Mishap::kHastyService, 0.9},
    {Mishap::kSlowProcessor, 0.9},  {Mishap::kReceiveError, 0.01},  {Mishap::kSendError, 0.01},
    {Mishap::kNoMemory, 0.02},      {Mishap::kChannelError, 0.002}, {Mishap::kAcceptFails, 0.3},
    {Mishap::kSocketFails, 0.3},    {Mishap::kServiceAbsent, 0.3},  {Mishap::kServiceSilent, 0.3},
    {Mishap::kBacklogFull, 0.5},    {Mishap::kAddressInUse, 0.8},   {Mishap::kLateRelease, 1.0},
    {Mishap::kRingRefuses, 0.3},    {Mishap::kPollEnds, 0.9},       {Mishap::kWakeLost, 0.03},
    {Mishap::kDeviceAbsent, 0.5},   {Mishap::kByteFlipped, 0.002},  {Mishap::kByteLost, 0.002},
    {Mishap::kByteInserted, 0.002}, {Mishap::kPipeFails, 1.0},      {Mishap::kPipeSmall, 1.0},
};

}  // namespace

Scenario::Scenario(World& world) : world_(world), random_(world.random()) {
  world_.set_describer([this] { return describe(); });
  draw_mishaps();
  draw_hostility();
  draw_strangers();
  draw_topology();
  draw_logs();
}

Scenario::~Scenario() { world_.set_describer({}); }

void Scenario::draw_mishaps() {
  const double share = random_.chance(0.15) ? 0 : random_.chance(0.1) ? 0.9 : 0.25;
  bulky_ = random_.chance(0.15);
  for (const Row& row : kRates) {
    // Only a bulky world has pipes, and it makes few.
    const bool of_pipes = row.mishap == Mishap::kPipeFails || row.mishap == Mishap::kPipeSmall;
    if (!random_.chance(of_pipes && bulky_ && share > 0 ? std::max(share, 0.5) : share)) continue;
    const double tame = 1.0 / static_cast<double>(random_.magnitude(1, 64));
    world_.set_rate(row.mishap, row.most * tame);
  }
  cutting_ = random_.chance(share);
  killing_ = random_.chance(share);
  stalling_ = random_.chance(share);
  unruly_ = random_.chance(0.7);
  standing_ = random_.chance(share);
}

DriverFeatures Scenario::draw_features() {
  DriverFeatures features;
  if (random_.chance(0.15)) features.provided_buffers = false;
  if (random_.chance(0.15)) features.poll_first = false;
  if (random_.chance(0.15)) features.multishot_accept = false;
  if (random_.chance(0.15)) features.registered_files = false;
  if (random_.chance(0.15)) features.splice = false;
  if (random_.chance(0.15)) features.no_iowait = false;
  features.busy_poll = false;     // nothing happens while a process looks
  features.restrictions = false;  // the simulated ring is asked for nothing else
  return features;
}

// Not drawn: the same seed has the same world with each driver, until the first daemon starts.
DriverChoice Scenario::next_driver() const {
  const bool epoll =
      world_.drivers() == Drivers::kEpoll ||
      (world_.drivers() == Drivers::kMixed && mix(world_.seed() ^ mix(processes_)) % 2 == 0);
  return epoll ? DriverChoice::kEpoll : DriverChoice::kIoUring;
}

DaemonChannel Scenario::draw_channel(unsigned index) {
  DaemonChannel config;
  config.memory = random_.magnitude(512 << 10, bulky_ ? 64 << 20 : 8 << 20);
  config.max_streams = static_cast<uint32_t>(random_.magnitude(8, 128));
  config.window = static_cast<uint32_t>(random_.magnitude(bulky_ ? 128 << 10 : 4096, 1 << 20));
  config.forwards.connect_timeout = random_.duration(milliseconds(300), seconds(3));
  config.epoch_key = {random_.next(), random_.next()};
  config.number_seed = random_.next();
  if (random_.chance(0.5)) config.protocol = ProtocolMode::kV2;
  config.first_buffer_group = static_cast<uint16_t>(2 * index);
  return config;
}

// One end speaks protocol 1 alone; the other one, if it may, has to find out.
void Scenario::draw_protocol_one(ChannelConfig& one, ChannelConfig& other) {
  V1Limits old;
  old.hold = random_.magnitude(1024, 128 << 10);
  old.stall_timeout = random_.duration(milliseconds(100), seconds(1));
  one.v1 = other.v1 = old;
  one.protocol = other.protocol = ProtocolMode::kV1;
  if (random_.chance(0.7)) (random_.chance(0.5) ? one : other).protocol = ProtocolMode::kAuto;
}

void Scenario::draw_routes(SimulatedLink& link, DaemonConfig& host, DaemonConfig& guest) {
  const size_t count = random_.between(1, 4);
  for (size_t i = 0; i < count; ++i) {
    Route& route = routes_.emplace_back();
    const size_t number = routes_.size() - 1;
    route.channel = link.id();
    route.service = fmt::format("s{}", number);
    route.from_host = random_.chance(0.5);
    const auto port = static_cast<uint16_t>(8000 + number);
    route.client_end = random_.chance(0.5) ? to_unix_address(fmt::format("/sim/client{}", number))
                                           : to_tcp_address(static_cast<uint16_t>(port + 1000));
    route.service_end = random_.chance(0.5) ? to_unix_address(fmt::format("/sim/service{}", number))
                                            : to_tcp_address(port);
    const auto path_of = [this](const Address& address) {
      Path path;
      path.capacity = static_cast<size_t>(bulky_ ? random_.magnitude(64 << 10, 1 << 20)
                                                 : random_.magnitude(1024, 256 << 10));
      if (address.kind == Address::Kind::kTcp) {
        path.latency = Duration(static_cast<Duration::rep>(random_.magnitude(1'000, 10'000'000)));
      }
      return path;
    };
    network_.set_path(network_name(route.client_end), path_of(route.client_end));
    services_.push_back(
        std::make_unique<Service>(network_, exchange_, route, path_of(route.service_end),
                                  [this, &route] { return draw_plan(route.channel); }));
    ForwardSpec forward;
    forward.service = route.service;
    forward.id = link.id();
    forward.channel = std::to_string(link.id());
    forward.priority = static_cast<Priority>(random_.below(kPriorities));
    forward.address = route.client_end;
    (route.from_host ? host : guest).channels.back().forwards.oforwards.push_back(forward);
    forward.address = route.service_end;
    (route.from_host ? guest : host).channels.back().forwards.iforwards.push_back(forward);
  }
}

bool Scenario::streams_open(unsigned id) {
  for (const size_t place : {size_t{0}, size_t{id}}) {
    Channel* channel = places_[place].daemon ? places_[place].daemon->channel(id) : nullptr;
    if (channel == nullptr || channel->stats().connections == 0) return false;
  }
  return true;
}

void Scenario::draw_topology() {
  const size_t guests = random_.chance(0.8) ? 1 : 2;
  places_.resize(1 + guests);
  DaemonConfig& host = places_[0].config;
  host.name = "host";
  for (size_t i = 0; i < guests; ++i) {
    const auto kind = static_cast<LinkKind>(random_.below(kLinkKinds));
    const auto id = static_cast<unsigned>(i + 1);
    links_.push_back(std::make_unique<SimulatedLink>(network_, id, kind));
    DaemonConfig& guest = places_[1 + i].config;
    guest.name = fmt::format("guest {}", id);
    host.channels.push_back(draw_channel(static_cast<unsigned>(i)));
    host.channels.back().spec = links_.back()->host_spec();
    places_[0].channels.push_back(id);
    places_[1 + i].channels.push_back(id);
    guest.channels.push_back(draw_channel(0));
    guest.channels.back().spec = links_.back()->guest_spec();
    world_.channel(id).set_streams_open([this, id] { return streams_open(id); });
    changing_.push_back(false);
    if (random_.chance(hostile_ ? kShareOfOldAmongHostile : kShareOfOld)) {
      draw_protocol_one(host.channels.back(), guest.channels.back());
      changing_.back() = random_.chance(0.5);
    }
    if (!links_.back()->hides() && random_.chance(0.3)) {
      host.channels.back().integrity =
          random_.chance(0.5) ? Integrity::kCommit : Integrity::kChecksum;
    }
    draw_routes(*links_.back(), host, guest);
  }
  bulky_ = bulky_ && std::all_of(links_.begin(), links_.end(), [](const auto& link) {
             return link->speed() == 0 || link->speed() >= kFast;
           });
  for (Place& place : places_) {
    place.config.features = draw_features();
    place.config.drain_timeout = random_.duration({}, seconds(2));
    place.restarts_left = static_cast<unsigned>(random_.between(1, 4));
  }
}

// --- what happens to daemons and channels -----------------------------------------------------

void Scenario::draw_misfortunes(Instant until) {
  if (!cutting_ && !killing_ && !stalling_ && !standing_) return;
  const size_t count = random_.between(1, 6);
  for (size_t i = 0; i < count; ++i) {
    world_.at(world_.now() + random_.duration({}, until - world_.now()), [this] { misfortune(); });
  }
}

void Scenario::misfortune() {
  if (world_.healed()) return;
  const size_t which = random_.below(links_.size());
  SimulatedLink& link = *links_[which];
  if (cutting_ && random_.chance(0.4)) return link.cut(guest_of(which), random_.chance(0.6));
  if (stalling_ && random_.chance(0.4)) {
    return link.stall(guest_of(which), random_.duration(milliseconds(1), seconds(2)));
  }
  if (standing_ && random_.chance(0.4)) return stand_still(random_.pick(places_));
  if (!killing_) return;
  Place& place = random_.pick(places_);
  if (!place.daemon || place.restarts_left == 0) return;
  --place.restarts_left;
  end_life(place, random_.chance(0.7),
           Duration(static_cast<Duration::rep>(random_.magnitude(1000, 2'000'000'000))));
}

// For less than the shortest limit of a daemon, or for more than the longest. No limit of its own
// may pass for that. With protocol 1 the other end lets it wait for 15 s, in all.
void Scenario::stand_still(Place& place) {
  if (!place.daemon || !place.daemon->working()) return;
  unsigned channel = 0;  // one that speaks protocol 1, if there is one
  for (const unsigned id : place.channels) {
    if (channel == 0 || world_.channel(id).old()) channel = id;
  }
  const uint64_t longest = world_.channel(channel).old() ? 2'000'000'000 : 20'000'000'000;
  world_.count(Mishap::kStandsStill, channel);
  const Instant until =
      world_.now() + Duration(static_cast<Duration::rep>(random_.magnitude(10'000'000, longest)));
  stands_until_ = std::max(stands_until_, until);
  place.daemon->stand_still(until);
}

void Scenario::take_down(Place& place, bool killed) {
  unsigned channel = 0;  // one that speaks protocol 1, if there is one
  for (const unsigned id : place.channels) {
    world_.channel(id).disturb(world_.now());
    if (channel == 0 || world_.channel(id).old()) channel = id;
  }
  if (killed) {
    world_.count(Mishap::kDaemonKilled, channel);
    place.daemon->kill();
  } else {
    world_.count(Mishap::kDaemonStopped, channel);
    place.daemon->stop();
  }
  leaving_.push_back(std::move(place.daemon));
  check_sessions();
}

void Scenario::end_life(Place& place, bool killed, Duration pause) {
  take_down(place, killed);
  // A daemon that was told to end keeps its addresses until it has.
  Duration least = killed ? Duration{} : Duration(place.config.drain_timeout + seconds(2));
  if (const LogLedger* ledger = place.config.channels.front().ships; ledger && !killed) {
    least += ledger->plan().flush_timeout + logs::LogShipper::kSyncLimit;
  }
  world_.after(std::max(pause, least), [this, &place] {
    change_protocol(place);
    start(place);
  });
}

ProtocolMode& Scenario::mode(size_t place, size_t link) {
  return places_[place].config.channels[place == 0 ? link : 0].protocol;
}

// An end that is replaced may be by one that speaks another protocol, or no other any more.
void Scenario::change_protocol(Place& place) {
  const auto index = static_cast<size_t>(&place - places_.data());
  for (size_t i = 0; i < links_.size(); ++i) {
    if (index != 0 && index != 1 + i) continue;
    ProtocolMode& ours = mode(index, i);
    const size_t far = index == 0 ? 1 + i : 0;
    if (ours == ProtocolMode::kV2 || mode(far, i) == ProtocolMode::kV2 || !changing_[i]) continue;
    if (random_.chance(0.5)) continue;
    const bool upgraded = ours == ProtocolMode::kV1;
    ours = upgraded ? ProtocolMode::kAuto : ProtocolMode::kV1;
    world_.count(upgraded ? Mishap::kUpgraded : Mishap::kDowngraded);
    // Nobody tells an end that speaks protocol 2: whoever puts an old one there restarts it, too.
    Place& other = places_[far];
    if (!upgraded && links_[i]->hides() && mode(far, i) == ProtocolMode::kAuto && other.daemon) {
      end_life(other, random_.chance(0.7), milliseconds(1));
    }
  }
}

void Scenario::start(Place& place) {
  if (!place.wanted) return;
  DaemonConfig config = place.config;
  config.driver = next_driver();
  for (ChannelConfig& channel : config.channels) {
    channel.epoch_key = {random_.next(), random_.next()};
    channel.number_seed = random_.next();
    channel.number_key = {random_.next(), random_.next()};
  }
  auto daemon = std::make_unique<Daemon>(network_, processes_++, config);
  if (daemon->start()) {
    place.daemon = std::move(daemon);
    for (const unsigned id : place.channels) {
      send_strangers(place, id);
      send_clients(id, milliseconds(50));
    }
    return;
  }
  leaving_.push_back(std::move(daemon));
  world_.after(seconds(3), [this, &place] { start(place); });
}

// --- running ----------------------------------------------------------------------------------

bool Scenario::run_once() {
  bool ran = false;
  const auto turn = [&](Daemon& daemon) {
    if (!daemon.runnable()) return;
    daemon.turn();
    daemon.check_logs();
    ++turns_;
    ran = true;
  };
  const size_t first = random_.below(places_.size());
  for (size_t i = 0; i < places_.size(); ++i) {
    auto& daemon = places_[(first + i) % places_.size()].daemon;
    if (daemon) turn(*daemon);
  }
  for (const auto& daemon : leaving_) turn(*daemon);
  std::erase_if(leaving_, [](const auto& daemon) { return daemon->over(); });
  if (ran) check_sessions();
  if (turns_ + world_.steps() > kMostSteps) world_.fail("livelock", "too many steps");
  return ran || world_.step();
}

template <typename Done>
bool Scenario::run_until(Instant limit, Done done) {
  world_.at(limit, [] {});
  while (world_.now() < limit) {
    if (done()) return true;
    if (!run_once()) return done();
  }
  return done();
}

V2Session* Scenario::session_of(Place& place, const SimulatedLink& link) {
  return place.daemon ? place.daemon->session(link.id()) : nullptr;
}

uint64_t Scenario::session_on(size_t link) {
  if (expects_old(link)) return old_session_on(link);
  const V2Session* one = session_of(places_[0], *links_[link]);
  const V2Session* other = session_of(places_[1 + link], *links_[link]);
  if (one == nullptr || other == nullptr || !paired(*one, *other)) return 0;
  return std::max<uint64_t>(mix(one->epoch()) ^ other->epoch(), 1);
}

uint64_t Scenario::old_session_on(size_t link) {
  const auto session_of = [&](Place& place) {
    return place.daemon ? place.daemon->old_session(links_[link]->id()) : 0;
  };
  const uint64_t one = session_of(places_[0]);
  const uint64_t other = session_of(places_[1 + link]);
  return one == 0 || other == 0 ? 0 : std::max<uint64_t>(mix(one) ^ other, 1);
}

bool Scenario::everything_up() {
  for (size_t i = 0; i < links_.size(); ++i) {
    if (session_on(i) == 0) return false;
  }
  return true;
}

// What arrives is what the other end wrote in this session, unless the line lost or changed
// something, or hides that there is another end: then a fault is a defect of one of the two.
void Scenario::check_faults() {
  for (const auto& [process, channel, fault] : world_.take_faults()) {
    if (fault == Fault::kPeerRestarted || fault == Fault::kUpgraded) continue;
    const ChannelRecord& record = world_.channel(channel);
    if (record.hostile_since(world_.now()) || (record.hides() && record.explains(world_.now()))) {
      continue;
    }
    if (fault == Fault::kNoCommonVersion && record.stood_since(world_.now() - seconds(1))) continue;
    world_.fail("protocol", fmt::format("process {}, channel {}: a session has ended: {}", process,
                                        channel, fault_text(fault)));
  }
}

void Scenario::check_sessions() {
  check_faults();
  bool old = false;
  for (size_t i = 0; i < links_.size(); ++i) {
    const unsigned id = links_[i]->id();
    ChannelRecord& record = world_.channel(id);
    record.set_old(expects_old(i));
    for (const size_t place : {size_t{0}, 1 + i}) {
      Daemon* daemon = places_[place].daemon.get();
      if (daemon == nullptr || !daemon->speaks_old(id)) continue;
      record.speak_old(world_.now());
      old = old || !record.old();
      const size_t streams = daemon->channel(id)->session().stats().streams;
      if (streams + kUncounted >= places_[place].config.channels[place == 0 ? i : 0].max_streams) {
        record.fill(world_.now());
      }
    }
    const uint64_t session = session_on(i);
    if (record.old() && session != 0 && session != record.session()) {
      world_.count(Mishap::kProtocolOne);
    }
    if (!record.note_session(session, world_.now())) {
      world_.fail("session", fmt::format("channel {}: its session ended for no reason", id));
    }
    const V2Session* one = session_of(places_[0], *links_[i]);
    const V2Session* other = session_of(places_[1 + i], *links_[i]);
    if (one == nullptr || other == nullptr) continue;
    check_pair(*one, *other);
    if (session == 0) continue;
    const size_t slots = std::min(one->peer().max_streams, other->peer().max_streams);
    if (std::max(one->streams().size(), other->streams().size()) + kUncounted >= slots) {
      record.fill(world_.now());
    }
  }
  if (old) {
    if (settled_) world_.fail("protocol", "protocol 1 though both ends speak protocol 2");
    if (!old_spoken_) world_.count(Mishap::kOldProtocol);
  }
  old_spoken_ = old;
}

void Scenario::check_soon() {
  world_.after(kCheckInterval, [this] {
    for (size_t i = 0; i < links_.size(); ++i) {
      const auto& link = links_[i];
      Duration patience = kPatience;
      if (expects_old(i)) {
        for (const size_t place : {size_t{0}, 1 + i}) {
          if (places_[place].daemon) places_[place].daemon->check_held_back(link->id());
        }
      }
      if (link->speed() > 0) {
        // Streams take turns, and the lowest priority may be left a sixteenth of the line.
        const double turn = link->kind() == LinkKind::kCable ? 5'000.0 : 70'000.0;
        const auto streams =
            static_cast<double>(exchange_.running(link->id()) + (ships_on(link->id()) ? 1 : 0));
        // Protocol 1 does not know how much is on its way, and fills whatever takes it.
        const double ahead = expects_old(i) ? static_cast<double>(link->depth()) : 0;
        patience += Duration(
            static_cast<Duration::rep>((streams * 16 * turn + ahead) / link->speed() * 1e9));
      }
      if (patience > kLongTurn) world_.channel(link->id()).crowd(world_.now());
      if (patience <= kMostPatience) {
        exchange_.check_progress(link->id(), patience);
      } else {
        exchange_.skip_progress(link->id());
      }
    }
    check_soon();
  });
}

void Scenario::run() {
  for (Place& place : places_) {
    world_.after(random_.duration({}, milliseconds(500)), [this, &place] { start(place); });
  }
  const auto up = [this] { return everything_up(); };
  if (!run_until(world_.now() + kToMeet, up)) {
    world_.calm(true);
    if (!run_until(world_.now() + kToMeet, up)) {
      world_.fail("liveness", "the daemons do not find each other");
    }
    world_.calm(false);
  }
  check_sessions();
  // From here on nothing is excused by the ends having been apart before they first met.
  for (const auto& link : links_) world_.channel(link->id()).begin();
  check_soon();
  const Instant begin = world_.now();
  heals_at_ = begin + (random_.chance(0.2) ? random_.duration(seconds(5), seconds(15))
                                           : random_.duration(milliseconds(200), seconds(3)));
  draw_clients(heals_at_);
  draw_misfortunes(heals_at_);
  draw_attacks();
  begin_logs();
  run_until(heals_at_, [] { return false; });

  end_attacks();
  world_.heal();
  world_.trace("healed");
  exchange_.hurry();
  for (const auto& writer : writers_) writer->hurry();
  if (!run_until(world_.now() + kToFinish,
                 [this] { return exchange_.all_over() && everything_up() && logs_settled(); })) {
    world_.fail("liveness", "not everything has ended after the world healed");
  }

  // A byte missing from the very last frame is noticed by whoever comes next.
  bool spoilt = false;
  for (const auto& link : links_) {
    ChannelRecord& record = world_.channel(link->id());
    if (!record.spoilt()) continue;
    record.explain(world_.now() + kToProbe);
    spoilt = true;
  }
  if (spoilt) {
    connect_polite_clients();
    run_until(world_.now() + kToProbe, [this] { return exchange_.all_over() && everything_up(); });
  }
  settled_ = true;
  rejected_peers_.clear();
  run_until(std::max(world_.now() + kToSettle, stands_until_ + seconds(1)), [] { return false; });
  for (size_t round = 0; round < 2; ++round) {
    const size_t before = exchange_.all().size();
    connect_polite_clients();
    if (!run_until(world_.now() + kToProbe, [this] { return exchange_.all_over(); })) {
      world_.fail("liveness", "late clients are not served");
    }
    if (exchange_.all().size() != before + 2 * routes_.size()) {
      world_.fail("liveness", "late clients were not let in");
    }
  }
  exchange_.check_ends();
  end_logs();

  bool old = false;
  for (size_t i = 0; i < links_.size(); ++i) old = old || expects_old(i);
  run_until(world_.now() + (old ? kToRestOfOld : kToRest), [] { return false; });
  for (const Place& place : places_) place.daemon->check_idle();
  settled_ = false;
  for (Place& place : places_) {
    for (const unsigned id : place.channels) world_.channel(id).disturb(world_.now());
    place.wanted = false;
    place.daemon->stop();
    leaving_.push_back(std::move(place.daemon));
    if (random_.chance(0.5)) {
      run_until(world_.now() + random_.duration({}, seconds(5)), [] { return false; });
    }
  }
  if (!run_until(world_.now() + kToEnd, [this] { return leaving_.empty(); })) {
    world_.fail("letting go", "a daemon does not end");
  }
}

std::string Scenario::describe() {
  std::string text;
  for (const auto& link : links_) {
    const size_t at = link->id() - 1;
    text += fmt::format("  link {}: kind {}, speed {}, modes {} {}\n", link->id(),
                        static_cast<int>(link->kind()), link->speed(),
                        static_cast<int>(mode(0, at)), static_cast<int>(mode(1 + at, at)));
  }
  for (const Place& place : places_) {
    if (place.daemon) text += "  " + place.daemon->describe() + "\n";
  }
  for (const Attack& attack : attacks_) {
    text += "  hostile in the place of " + attack.place->config.name + "\n";
  }
  for (const auto& daemon : leaving_) text += "  leaving: " + daemon->describe() + "\n";
  text += exchange_.describe_running();
  if (ledger_) text += ledger_->describe();
  for (size_t i = 0; i < kMishaps; ++i) {
    if (world_.counts()[i] == 0) continue;
    text += fmt::format("  {} {}\n", mishap_name(static_cast<Mishap>(i)), world_.counts()[i]);
  }
  return text;
}

}  // namespace virtproxy::sim
