#include "tests/sim/daemon.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <unordered_map>

#include "tests/sim/canaries.h"
#include "uring/mux/memory_shares.h"
#include "uring/transport/transport_kind.h"

namespace virtproxy::sim {
namespace {

// As in uring/daemon/worker.cc.
constexpr Duration kLastWordsLimit = milliseconds(200);
constexpr Duration kLetGoLimit = milliseconds(1000);

constexpr unsigned kOperations = 1024;

constexpr uint64_t kOneRead = ChannelReader::kLargestFrame + 16 * 1024;

// For what is late, for a daemon that is busy, and for what happened between two looks at it.
constexpr Duration kSlack = milliseconds(300);

void close_all(const std::vector<ChannelListenSockets>& listen_sockets) {
  for (const ChannelListenSockets& mine : listen_sockets) {
    for (const Listening& forward : mine.forwards) {
      std::for_each(forward.sockets.begin(), forward.sockets.end(), close);
    }
    std::for_each(mine.transport.sockets.begin(), mine.transport.sockets.end(), close);
  }
}

V2Session* v2_session(Channel& channel) { return dynamic_cast<V2Session*>(&channel.session()); }

}  // namespace

Daemon::Daemon(Network& network, unsigned number, const DaemonConfig& config)
    : config_(config), process_(network, number) {}

Daemon::~Daemon() = default;

bool Daemon::drained() const {
  const auto is_drained = [](const auto& object) { return object->drained(); };
  return std::all_of(channels_.begin(), channels_.end(), is_drained) &&
         std::all_of(forwards_.begin(), forwards_.end(), is_drained);
}

bool Daemon::idle() const {
  const auto is_idle = [](const auto& object) { return object->idle(); };
  return std::all_of(channels_.begin(), channels_.end(), is_idle) &&
         std::all_of(forwards_.begin(), forwards_.end(), is_idle) &&
         (!collector_ || collector_->idle()) &&
         (!shipper_ || (shipper_->stopped() && shipper_->idle()));
}

void Daemon::stop_streams() {
  for (size_t i = 0; i < channels_.size(); ++i) {
    forwards_[i]->stop_listening();
    channels_[i]->stop();
    forwards_[i]->end_lingering();
  }
}

std::optional<std::vector<ChannelListenSockets>> Daemon::bind_listen_sockets() {
  std::vector<ChannelListenSockets> listen_sockets;
  bool good = true;
  const auto bind = [&](const Address& address) {
    auto listening = listen_on(address, {});
    good = good && listening;
    return listening ? *std::move(listening) : Listening{};
  };
  for (const DaemonChannel& channel : config_.channels) {
    ChannelListenSockets& mine = listen_sockets.emplace_back();
    for (const ForwardSpec& forward : channel.forwards.oforwards) {
      mine.forwards.push_back(bind(forward.address));
    }
    if (transport_listens(channel.spec.transport)) mine.transport = bind(channel.spec.address);
  }
  if (good) return listen_sockets;
  close_all(listen_sockets);
  return std::nullopt;
}

bool Daemon::start() {
  const Process::Running running(process_);
  World& world = World::current();
  world.trace("start", process_.number());
  auto opened = open_driver(config_.driver, kOperations, config_.features);
  if (!opened) world.fail("driver", opened.error());
  loop_ = std::make_unique<Loop>(std::move(opened->driver));
  resolver_driver_ = std::make_unique<ResolverDriver>(*loop_);
  auto listen_sockets = bind_listen_sockets();
  if (!listen_sockets) {
    destroy();
    return false;
  }
  std::vector<Listening> log_sources;
  if (const LogLedger* ledger = config_.channels.front().ships) {
    auto bound = bind_log_sources(*ledger);
    if (!bound) {
      close_all(*listen_sockets);
      destroy();
      return false;
    }
    log_sources = *std::move(bound);
  }
  for (size_t i = 0; i < config_.channels.size(); ++i) {
    ChannelConfig config = config_.channels[i];
    if (world.canary() == Canary::kHoldBack) config.v1.stall_timeout = seconds(60);
    if (world.canary() == Canary::kOvercommit) config.memory *= 16;
    ChannelListenSockets& mine = (*listen_sockets)[i];
    forwards_.push_back(
        std::make_unique<SocketForwards>(*loop_, *resolver_driver_, config_.channels[i].forwards));
    channels_.push_back(
        std::make_unique<Channel>(*loop_, *resolver_driver_, config, forwards_.back()->services()));
    oracles_.push_back(
        std::make_unique<ChannelOracle>(process_.number(), config.spec.id, *channels_.back()));
    channels_.back()->add_observer(*oracles_.back());
    add_logs(config_.channels[i], std::exchange(log_sources, {}));
    forwards_.back()->start(*channels_.back(), std::move(mine.forwards));
    channels_.back()->start(std::move(mine.transport));
  }
  return true;
}

bool Daemon::runnable() const {
  if (over()) return false;
  const Instant now = World::current().now();
  return busy_until_ <= now &&
         (process_.ready() || (phase_ != Phase::kServing && phase_ends_ <= now));
}

void Daemon::turn() {
  const Process::Running running(process_);
  World& world = World::current();
  process_.resume();
  last_turn_ = world.now();
  const int result = loop_->turn();
  if (result != 0) world.fail("driver", fmt::format("the loop gave up: {}", result));
  busy_until_ = world.now() + world.random().duration(microseconds(2), microseconds(40));
  world.at(busy_until_, [] {});
  check_bounds();
  if (phase_ != Phase::kServing) advance();
}

void Daemon::enter(Phase phase, Duration limit) {
  World& world = World::current();
  process_.resume();
  phase_ = phase;
  phase_ends_ = world.now() + limit;
  world.at(phase_ends_, [] {});
}

void Daemon::stand_still(Instant until) {
  World& world = World::current();
  world.trace("stands still", process_.number());
  for (const DaemonChannel& config : config_.channels) {
    world.channel(config.spec.id).stand_still(world.now(), until);
  }
  busy_until_ = std::max(busy_until_, until);
  if (hub_) hub_->stand_still(busy_until_);
  world.at(busy_until_, [] {});
}

void Daemon::stop() {
  const Process::Running running(process_);
  busy_until_ = World::current().now();
  World::current().trace("stop", process_.number());
  if (!ships()) return drain();
  for (const auto& forwards : forwards_) forwards->stop_listening();
  end_shipping();
  enter(Phase::kShipping, ledger_->plan().flush_timeout + logs::LogShipper::kSyncLimit + kSlack);
}

void Daemon::drain() {
  for (size_t i = 0; i < channels_.size(); ++i) {
    forwards_[i]->stop_listening();
    channels_[i]->drain();
  }
  if (collector_) collector_->drain();
  enter(Phase::kDraining, config_.drain_timeout);
}

void Daemon::kill() {
  const Process::Running running(process_);
  busy_until_ = World::current().now();
  World::current().trace("kill", process_.number());
  process_.kill();
  if (ledger_ != nullptr) ledger_->kill_log(life_);
  if (shipper_) shipper_->stop_at_once();
  stop_streams();
  for (const auto& channel : channels_) channel->disconnect();
  end_collecting();
  enter(Phase::kLettingGo, seconds(2) + (shipper_ ? logs::LogShipper::kSyncLimit : Duration{}));
}

void Daemon::advance() {
  const bool late = phase_ends_ <= World::current().now();
  if (phase_ == Phase::kShipping) {
    if (!ships()) return drain();
    if (late) World::current().fail("letting go", "a daemon does not stop shipping: " + describe());
  } else if (phase_ == Phase::kDraining && (late || drained())) {
    stop_streams();
    enter(Phase::kLastWords, kLastWordsLimit);
  } else if (phase_ == Phase::kLastWords &&
             (late || std::all_of(channels_.begin(), channels_.end(),
                                  [](const auto& channel) { return channel->flushed(); }))) {
    for (const auto& channel : channels_) channel->disconnect();
    end_collecting();
    enter(Phase::kLettingGo, kLetGoLimit);
  } else if (phase_ == Phase::kLettingGo) {
    if (idle()) return destroy();
    if (late) World::current().fail("letting go", "a daemon cannot end: " + describe());
  }
}

void Daemon::destroy() {
  World& world = World::current();
  world.trace("gone", process_.number());
  channels_.clear();
  shipper_.reset();
  collector_.reset();
  hub_.reset();
  forwards_.clear();
  resolver_driver_.reset();
  if (process_.pending() > 0) {
    world.fail("operations", fmt::format("{}: {} requests left", config_.name, process_.pending()));
  }
  loop_.reset();
  phase_ = Phase::kOver;
  if (process_.open_files() > 0) {
    world.fail("descriptors",
               fmt::format("{}: {} descriptors left", config_.name, process_.open_files()));
  }
}

Channel* Daemon::channel(unsigned id) {
  if (process_.dead()) return nullptr;
  for (const auto& channel : channels_) {
    if (channel->label() == std::to_string(id)) return channel.get();
  }
  return nullptr;
}

V2Session* Daemon::session(unsigned id) {
  Channel* found = channel(id);
  return found == nullptr ? nullptr : v2_session(*found);
}

bool Daemon::speaks_old(unsigned id) {
  Channel* found = channel(id);
  return found != nullptr && found->session().up() && v2_session(*found) == nullptr;
}

uint64_t Daemon::old_session(unsigned id) {
  if (!speaks_old(id)) return 0;
  return mix(process_.number() + 1) ^ channel(id)->session().stats().sessions;
}

FileRef Daemon::channel_file(unsigned id) const {
  return process_.find_file([id](const File& candidate) {
    const auto* socket = dynamic_cast<const Socket*>(&candidate);
    // One that waits to become the peer is not read.
    return candidate.carries_channel == id && candidate.reads > 0 &&
           (socket == nullptr || socket->connected());
  });
}

void Daemon::note_held_back(unsigned id) {
  if (!speaks_old(id) || channel(id)->session().wants_input(World::current().now())) return;
  const FileRef file = channel_file(id);
  if (file && (file->poll() & POLLIN) != 0) {
    World::current().channel(id).hinder(World::current().now());
  }
}

void Daemon::check_held_back(unsigned id) {
  World& world = World::current();
  Waiting& waiting = waiting_[id];
  const FileRef file = channel_file(id);
  const bool runs = busy_until_ <= world.now();
  const bool waits = runs && file && speaks_old(id) && (file->poll() & POLLIN) != 0;
  if (!waits || file->reads != waiting.reads) {
    waiting = {file ? file->reads : 0, world.now(), 0};
    return;
  }
  const Session::Stats stats = channel(id)->session().stats();
  world.channel(id).hinder(world.now());
  // One that is alone keeps nobody waiting, and one that takes something is slow, not stalled.
  if (stats.streams <= 1 || stats.held != waiting.held) {
    waiting.since = world.now();
    waiting.held = stats.held;
    return;
  }
  const auto config = std::find_if(config_.channels.begin(), config_.channels.end(),
                                   [id](const auto& c) { return c.spec.id == id; });
  if (world.now() - waiting.since > 2 * config->v1.stall_timeout + kSlack) {
    world.fail("holding back", fmt::format("{}: channel {} is not read", config_.name, id));
  }
}

std::shared_ptr<Socket> Daemon::channel_socket() const {
  return process_.find_socket([](const Socket& socket) {
    // One that waits to become the peer is not read.
    return socket.carries_channel && socket.connected() && socket.reads > 0;
  });
}

void Daemon::check_bounds() {
  for (size_t i = 0; i < channels_.size(); ++i) {
    break_channel(*channels_[i]);
    note_held_back(config_.channels[i].spec.id);
    const Channel::Stats stats = channels_[i]->stats();
    const ChannelConfig& config = config_.channels[i];
    World& world = World::current();
    const uint64_t receive = receive_share(config.memory);
    // Protocol 1 may be in the middle of a read when there is enough.
    const uint64_t most = receive + (v2_session(*channels_[i]) == nullptr ? kOneRead : 0);
    // Connections that are closing may hold bytes that streams of today were granted anew.
    if (stats.closing == 0 && stats.held > most) {
      world.fail("memory", fmt::format("{}: {} bytes held of {}", config_.name, stats.held, most));
    }
    uint64_t granted = 0;
    if (const V2Session* session = v2_session(*channels_[i])) {
      session->streams().for_each([&](StreamKey, const Stream& stream) {
        if (!stream.dead()) granted += stream.granted - stream.consumed;
      });
    }
    if (granted > receive) {
      world.fail("memory",
                 fmt::format("{}: {} bytes granted of {}", config_.name, granted, receive));
    }
    if (stats.session.streams < stats.connections) {
      world.fail("slots", fmt::format("{}: {} connections for {} streams", config_.name,
                                      stats.connections, stats.session.streams));
    }
  }
}

void Daemon::check_idle() {
  World& world = World::current();
  for (const auto& oracle : oracles_) {
    if (oracle->open_streams() > 0) {
      world.fail("events", config_.name + ": a stream was opened and never closed");
    }
  }
  for (const auto& channel : channels_) {
    const Channel::Stats stats = channel->stats();
    if (!channel->session().up()) world.fail("liveness", config_.name + ": channel is down");
    const bool clean = stats.session.streams == 0 && stats.session.borrowed == 0 &&
                       stats.session.held == 0 && stats.session.queued == 0 &&
                       stats.connections == 0 && stats.closing == 0 && stats.connecting == 0 &&
                       stats.send_buffers == 0 && stats.held == 0 && stats.waiting == 0 &&
                       stats.pipes == 0;
    if (!clean) world.fail("leak", "not idle: " + describe());
  }
  // What epoll waits with, the channels, the listeners, what a listening channel keeps in reserve,
  // the mailbox of a collector, the spool of a shipper, and nothing else.
  size_t expected = process_.uses_epoll() ? 2 : 0;
  for (const DaemonChannel& config : config_.channels) {
    expected += config.forwards.oforwards.size() +
                (transport_listens(config.spec.transport) ? 3 : 1) +
                (config.collects != nullptr ? 1 : 0) +
                (config.ships != nullptr && config.ships->disk() != nullptr ? 1 : 0);
  }
  if (process_.open_files() != expected) {
    world.fail("descriptors", fmt::format("{}: {} descriptors, expected {}", config_.name,
                                          process_.open_files(), expected));
  }
}

std::string Daemon::describe() {
  std::string text = fmt::format("{} (process {}, phase {}, {} descriptors, {} requests)",
                                 config_.name, process_.number(), static_cast<int>(phase_),
                                 process_.open_files(), process_.pending());
  for (const auto& channel : channels_) {
    const Channel::Stats f = channel->stats();
    text += fmt::format(
        "\n    channel {}: up={} protocol={} idle={} streams={} connections={} closing={} "
        "connecting={} buffers={} "
        "held={} waiting={} pipes={} lent={} queued={} under_way={}",
        channel->label(), channel->session().up(), v2_session(*channel) == nullptr ? 1 : 2,
        channel->idle(), f.session.streams, f.connections, f.closing, f.connecting, f.send_buffers,
        f.held, f.waiting, f.pipes, f.session.borrowed, f.session.queued, f.session.in_flight);
    const V2Session* session = v2_session(*channel);
    if (session == nullptr) continue;
    session->streams().for_each([&](StreamKey, const Stream& s) {
      text += fmt::format(
          "\n      stream {:x}{}: sent {}+{} of {}, taken {} received {} granted {}{}{}{}{}{}",
          s.number, s.ours ? " ours" : "", s.sent, s.queued, s.send_limit, s.consumed, s.received,
          s.granted, s.end_sent ? " end>" : "", s.end_received ? " <end" : "",
          s.done_sent ? " done>" : "", s.done_received ? " <done" : "", s.dead() ? " dead" : "");
    });
  }
  return text;
}

bool paired(const V2Session& one, const V2Session& other) {
  return one.up() && other.up() && one.peer().epoch == other.epoch() &&
         other.peer().epoch == one.epoch();
}

void check_pair(const V2Session& one, const V2Session& other) {
  if (!paired(one, other)) return;
  std::unordered_map<uint64_t, const Stream*> known;
  const auto key = [](const Stream& stream, bool ours) {
    return uint64_t{stream.number} << 1 | (ours ? 1 : 0);
  };
  other.streams().for_each(
      [&](StreamKey, const Stream& stream) { known[key(stream, !stream.ours)] = &stream; });
  one.streams().for_each([&](StreamKey, const Stream& stream) {
    const auto found = known.find(key(stream, stream.ours));
    if (found == known.end() || stream.dead() || found->second->dead()) return;
    for (const auto& [sender, receiver] :
         {std::pair(&stream, found->second), std::pair(found->second, &stream)}) {
      const bool kept = sender->sent + sender->queued <= sender->send_limit &&
                        receiver->received <= sender->sent &&
                        receiver->consumed <= receiver->received &&
                        (receiver->end_received || sender->send_limit <= receiver->granted);
      if (!kept) {
        World::current().fail(
            "credit", fmt::format("stream {:x}: sent {} queued {} limit {}, received {} taken {} "
                                  "granted {}",
                                  stream.number, sender->sent, sender->queued, sender->send_limit,
                                  receiver->received, receiver->consumed, receiver->granted));
      }
    }
  });
}

}  // namespace virtproxy::sim
