#include "uring/channel.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/assert.h"
#include "uring/origin.h"
#include "uring/sockets.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

using limits::outbound_share;
using limits::receive_share;

constexpr uint32_t kMaxFrame = 64 * 1024;
// A serial line carries about 10 bytes per millisecond: a frame must not take seconds, nor a
// window.
constexpr uint32_t kTtyFrame = 1024;
// Nor must the turns of the streams before a small message.
constexpr uint32_t kTtyQuantum = 4 * kTtyFrame;
constexpr uint32_t kTtyWindow = 32 * 1024;
// A guest's tty keeps about 1.25 MiB for a daemon that is slow to read and drops the rest unsaid.
constexpr uint64_t kTtyMemory = 1024 * 1024;
constexpr uint32_t kTtyStreams = 1024;

// Memory that was not needed for this long goes back to the system.
constexpr Duration kTrimInterval = seconds(1);

// Dials in progress hold a descriptor and little else.
constexpr unsigned kMostDials = 4096;

// A peer that breaks the protocol on a link of its own gets the next link ever later.
constexpr Duration kFirstPatience = milliseconds(100);
constexpr unsigned kMostDoublings = 6;
constexpr Duration kGoodConduct = seconds(10);

constexpr Duration kBlockedInterval = milliseconds(100);

SessionConfig session_config(const ChannelConfig& config) {
  const bool tty = config.spec.method == Method::kIsaSerial;
  SessionConfig session;
  if (tty) {
    session.limits = derive_limits(std::min(receive_share(config.memory), kTtyMemory),
                                   std::min(config.max_streams, kTtyStreams),
                                   std::min(config.window, kTtyWindow), kTtyFrame);
    session.quantum = kTtyQuantum;
  } else {
    session.limits =
        derive_limits(receive_share(config.memory), config.max_streams, config.window, kMaxFrame);
  }
  session.secret = config.secret;
  return session;
}

std::chrono::steady_clock::time_point log_time(Instant now) {
  return std::chrono::steady_clock::time_point(
      std::chrono::duration_cast<std::chrono::steady_clock::duration>(now));
}

}  // namespace

tl::expected<void, std::string> Channel::check(const ChannelConfig& config) {
  if (session_config(config).limits.initial_window > 0) return {};
  uint64_t memory = config.memory;
  while (derive_limits(receive_share(memory), config.max_streams, config.window, kMaxFrame)
             .initial_window == 0) {
    memory += memory / 8;
  }
  return tl::unexpected(fmt::format(
      "too little memory: {} a channel do not suffice for {} streams; give --memory {} or more for "
      "each channel, or a smaller --max-streams",
      format_size(config.memory), config.max_streams, format_size(((memory >> 20) + 1) << 20)));
}

Channel::Channel(Loop& loop, Resolution& resolution, const ChannelConfig& config)
    : loop_(loop),
      resolution_(resolution),
      config_(config),
      session_(session_config(config)),
      pool_(loop.ring(), outbound_share(config.memory), config.first_buffer_group),
      link_(loop, resolution, config_.spec, this),
      reader_(loop, this),
      writer_(loop, session_, pool_, this),
      timer_(loop.timers(), this),
      trim_timer_(loop.timers(), this) {}

Channel::~Channel() { VP_ASSERT(idle()); }

tl::expected<void, std::string> Channel::start() {
  Listener::Client* const client = this;
  for (const ForwardSpec& forward : config_.oforwards) {
    const auto sockets = listen_on(forward.endpoint);
    if (!sockets) return tl::unexpected(sockets.error());
    bound_.emplace_back(forward.endpoint);
    for (const int fd : *sockets) {
      listeners_.push_back(std::make_unique<Listener>(loop_, forward, fd, client));
    }
    log_info("channel {}: listening on {} for service {}", id(), forward.endpoint.to_string(),
             forward.service);
  }
  return link_.start();
}

void Channel::wake() {
  if (awake_) return;
  awake_ = true;
  loop_.finish_later(this);
}

void Channel::finish_turn() {
  awake_ = false;
  busy_ = true;
  if (!trim_timer_.armed()) trim_timer_.set(loop_.now() + kTrimInterval);
  handle_events(nullptr);
  hand_out_buffers();
  for (size_t i = 0; i < flushing_.size(); ++i) {
    flushing_[i]->flush_wanted = false;
    flushing_[i]->flush();
  }
  flushing_.clear();
  handle_events(nullptr);
  if (link_state_ == LinkState::kInUse) {
    writer_.write_on(events_);
    handle_events(nullptr);
    reader_.read_on();
    set_timer();
  } else {
    timer_.clear();
  }
  reap();
  if (link_state_ == LinkState::kLetGo && reader_.idle() && writer_.idle()) {
    link_state_ = LinkState::kNone;
    loop_.ring().remove_file(file_);
    file_ = {};
    link_.lost(link_patience_);
  }
}

void Channel::set_timer() {
  const auto deadline = session_.deadline();
  if (!deadline) return timer_.clear();
  // Due already, and not written just now: the link does not take it.
  timer_.set(*deadline > loop_.now() ? *deadline : loop_.now() + kBlockedInterval);
}

void Channel::expired(Timer& timer) {
  if (&timer == &trim_timer_) return trim();
  session_.tick(loop_.now());
  wake();
}

// --- the link and the session -----------------------------------------------------------------

void Channel::link_ready(int fd, Link::Kind kind) {
  VP_ASSERT(link_state_ == LinkState::kNone);
  link_state_ = LinkState::kInUse;
  link_kind_ = kind;
  // A device is not registered: it could not be opened again until the ring lets go of it, and it
  // cannot be shut down (see Link::hang_up).
  file_ = kind == Link::Kind::kSocket ? loop_.ring().add_file(fd) : File{fd, -1};
  log_debug("channel {}: link established", id());
  writer_.attach(file_, kind);
  reader_.attach(file_, kind);
  // A port is asked first whether anybody is on its other side.
  if (kind != Link::Kind::kPort) begin_session();
}

// A device hides that the other end was replaced, and a tty may lose bytes besides.
uint64_t Channel::wanted_features() const {
  const bool checksum = link_kind_ == Link::Kind::kTty || config_.seal == Seal::kChecksum;
  const bool commit = link_kind_ == Link::Kind::kPort || config_.seal == Seal::kCommit;
  return (checksum ? feature::kChecksumTrailer : 0) | (commit ? feature::kCommitTrailer : 0);
}

void Channel::begin_session() {
  session_.want_features(wanted_features());
  session_.link_up(loop_.now());
  wake();
}

void Channel::port_present(bool present) {
  if (present) {
    begin_session();
  } else {
    end_session("the other side of the port was closed");
  }
}

void Channel::end_session(const std::string& reason) {
  const bool was_up = session_.up();
  session_.link_down(events_);
  // The only event a lost link brings is the end of the session.
  std::erase_if(events_, [](const Event& event) { return event.kind == Event::Kind::kDown; });
  abort_all();
  if (was_up) log_info("channel {}: down: {}", id(), reason);
  wake();
}

void Channel::channel_failed(const std::string& reason) {
  if (link_state_ != LinkState::kInUse) return;
  log_debug("channel {}: link lost: {}", id(), reason);
  link_patience_ = Duration::zero();
  let_go_of_link();
  end_session(reason);
}

void Channel::let_go_of_link() {
  link_state_ = LinkState::kLetGo;
  reader_.detach();
  writer_.detach();
  wake();
}

size_t Channel::channel_input(std::span<const std::byte> bytes, ReadSlab* slab) {
  const size_t used = session_.input(bytes, loop_.now(), events_);
  handle_events(slab);
  wake();
  return used;
}

// --- events -----------------------------------------------------------------------------------

void Channel::handle_events(ReadSlab* slab) {
  // Handling may add events, and may reset streams that later events still name.
  for (size_t i = 0; i < events_.size(); ++i) {
    const Event event = events_[i];
    handle(event, slab);
  }
  events_.clear();
}

void Channel::handle(const Event& event, ReadSlab* slab) {
  switch (event.kind) {
    case Event::Kind::kUp:
      return on_up();
    case Event::Kind::kDown:
      return on_down(event.fault);
    case Event::Kind::kOpened:
      return on_opened(event);
    case Event::Kind::kGoingAway:
      log_info("channel {}: the other end is going away", id());
      return;
    case Event::Kind::kNoVersion:
      if (downs_.allow(log_time(loop_.now()))) {
        log_error("channel {}: {}", id(), fault_text(event.fault));
      }
      return;
    default:
      break;
  }
  Connection* connection = find(event.stream);
  if (connection == nullptr) return;
  switch (event.kind) {
    case Event::Kind::kData:
      return connection->deliver(event.bytes, slab);
    case Event::Kind::kEnd:
      return connection->peer_ended();
    case Event::Kind::kCredit:
      return connection->credit_arrived();
    case Event::Kind::kReset:
      log_debug("channel {}: stream reset by the other end: {}", id(), fault_text(event.fault));
      return connection->abort();
    case Event::Kind::kClosed:
      return connection->finish();
    default:
      return;
  }
}

void Channel::on_up() {
  up_since_ = loop_.now();
  log_info("channel {}: up, protocol 2{}", id(), session_.uses_trailers() ? ", frames sealed" : "");
}

void Channel::on_down(Fault fault) {
  if (const auto hidden = downs_.allow(log_time(loop_.now()))) {
    log_info("channel {}: down: {}{}", id(), fault_text(fault),
             *hidden > 0 ? " (and " + std::to_string(*hidden) + " times before)" : "");
  }
  abort_all();
  if (fault == Fault::kPeerRestarted || session_.uses_trailers()) return;
  // On a link that tells when a peer goes, a broken peer is rid of by dropping the link.
  if (loop_.now() - up_since_ > kGoodConduct) bad_links_ = 0;
  link_patience_ = kFirstPatience * (1u << std::min(bad_links_, kMostDoublings));
  ++bad_links_;
  let_go_of_link();
  session_.link_down(events_);
}

void Channel::on_opened(const Event& event) {
  const auto forward =
      std::find_if(config_.iforwards.begin(), config_.iforwards.end(),
                   [&](const ForwardSpec& f) { return f.service == event.service; });
  if (forward == config_.iforwards.end()) {
    if (refusals_.allow(log_time(loop_.now()))) {
      log_warn("channel {}: the other end asks for service {}, which is not offered here (-i {}:…)",
               id(), event.service, event.service);
    }
    session_.reset(event.stream, Fault::kUnknownService, events_);
    return;
  }
  if (dials_ >= kMostDials) {
    session_.reset(event.stream, Fault::kTooManyStreams, events_);
    return;
  }
  if (log_enabled(LogLevel::kDebug)) {
    log_debug("channel {}: stream to service {} from {}", id(), event.service,
              describe(decode_origin(event.bytes).value_or(Origin{})));
  }
  Connection& connection = add(event.stream, event.service);
  ++dials_;
  connection.dial(forward->endpoint, config_.dial_timeout);
}

// --- connections ------------------------------------------------------------------------------

void Channel::accepted(int fd, const ForwardSpec& forward) {
  std::optional<StreamKey> stream;
  const Origin origin = origin_of(fd);
  std::byte metadata[kMaxOriginSize];
  const size_t size = encode_origin(origin, metadata);
  if (!draining_) stream = session_.open(forward.service, forward.priority, {metadata, size});
  if (!stream) {
    close_with_reset(fd);
    if (const auto hidden = refusals_.allow(log_time(loop_.now()))) {
      log_warn("channel {}: service {}: client refused: {}{}", id(), forward.service,
               session_.up() ? "no more streams (--max-streams here or there, or going away)"
                             : "the channel is down",
               *hidden > 0 ? " (and " + std::to_string(*hidden) + " others)" : "");
    }
    return;
  }
  if (log_enabled(LogLevel::kDebug)) {
    log_debug("channel {}: client of service {} from {}", id(), forward.service, describe(origin));
  }
  add(*stream, forward.service).adopt(fd);
  wake();
}

Connection& Channel::add(StreamKey stream, std::string_view service) {
  if (stream.slot >= connections_.size()) connections_.resize(stream.slot + 1);
  auto& place = connections_[stream.slot];
  VP_ASSERT(!place);
  place = std::make_unique<Connection>(*this, stream, service);
  ++open_connections_;
  return *place;
}

Connection* Channel::find(StreamKey stream) {
  if (stream.slot >= connections_.size()) return nullptr;
  Connection* connection = connections_[stream.slot].get();
  return connection != nullptr && connection->stream() == stream ? connection : nullptr;
}

Connection& Channel::connection_of(StreamKey stream) {
  Connection* connection = find(stream);
  VP_ASSERT(connection != nullptr);
  return *connection;
}

void Channel::dial_failed(std::string_view service, const std::string& reason) {
  const auto hidden = dial_failures_.allow(log_time(loop_.now()));
  if (!hidden) return;
  log_info("channel {}: service {}: {}{}", id(), service, reason,
           *hidden > 0 ? " (and " + std::to_string(*hidden) + " others)" : "");
}

void Channel::closing(Connection* connection) {
  auto& place = connections_[connection->stream().slot];
  VP_ASSERT(place.get() == connection);
  closing_.push_back(std::move(place));
  --open_connections_;
  wake();
}

void Channel::abort_all() {
  for (size_t slot = 0; slot < connections_.size(); ++slot) {
    if (connections_[slot]) connections_[slot]->abort();
  }
}

void Channel::want_flush(Connection* connection) {
  if (connection->flush_wanted) return;
  connection->flush_wanted = true;
  flushing_.push_back(connection);
  wake();
}

void Channel::wait_for_buffer(Connection* connection) {
  VP_ASSERT(!connection->waits_for_buffer);
  connection->waits_for_buffer = true;
  waiting_[static_cast<size_t>(connection->receive_size())].push_back(connection);
  wake();
}

// Buffers that came back go to those that wait, in the order in which they began to.
void Channel::hand_out_buffers() {
  pool_.replenish();
  for (const BufferSize size : {BufferSize::kSmall, BufferSize::kLarge}) {
    auto& waiting = waiting_[static_cast<size_t>(size)];
    for (size_t left = std::min(pool_.ready(size), waiting.size()); left > 0; --left) {
      Connection* connection = waiting.front();
      waiting.pop_front();
      connection->waits_for_buffer = false;
      connection->receive_more();
    }
  }
}

void Channel::reap() {
  if (closing_.empty()) return;
  for (auto& waiting : waiting_) {
    std::erase_if(waiting, [](Connection* c) {
      if (!c->closing()) return false;
      c->waits_for_buffer = false;
      return true;
    });
  }
  std::erase_if(closing_,
                [](const std::unique_ptr<Connection>& c) { return c->idle() && !c->flush_wanted; });
}

void Channel::trim() {
  const bool busy = std::exchange(busy_, false);
  const bool more = pool_.trim();
  if (!busy) {
    reader_.trim();
    if (config_.release_memory != nullptr) config_.release_memory();
  }
  if (busy || more) trim_timer_.set(loop_.now() + kTrimInterval);
}

// --- the end ----------------------------------------------------------------------------------

void Channel::drain() {
  draining_ = true;
  for (BoundPath& path : bound_) path.remove();
  for (auto& listener : listeners_) listener->stop();
  session_.go_away();
  wake();
}

void Channel::stop() {
  drain();
  for (size_t slot = 0; slot < connections_.size(); ++slot) {
    if (!connections_[slot]) continue;
    session_.reset(connections_[slot]->stream(), Fault::kGoingAway, events_);
    connections_[slot]->abort();
  }
  wake();
}

void Channel::disconnect() {
  if (link_state_ == LinkState::kInUse) {
    let_go_of_link();
    end_session("stopped");
  }
  link_.stop();
}

bool Channel::idle() const {
  return closing_.empty() && open_connections_ == 0 && reader_.idle() && writer_.idle() &&
         link_.idle() && link_state_ == LinkState::kNone &&
         std::all_of(listeners_.begin(), listeners_.end(),
                     [](const auto& listener) { return listener->idle(); });
}

Channel::Figures Channel::figures() {
  Figures figures;
  figures.session = session_.figures();
  figures.connections = open_connections_;
  figures.closing = closing_.size();
  figures.dials = dials_;
  figures.send_buffers = pool_.in_use();
  for (const auto& connection : connections_) {
    if (connection) figures.held += connection->held();
  }
  figures.waiting = waiting_[0].size() + waiting_[1].size();
  return figures;
}

void Channel::log_figures() {
  const Figures now = figures();
  log_info(
      "stats channel={} up={} streams={} connections={} closing={} dials={} send_buffers={} "
      "send_bytes={} held_bytes={} granted_bytes={} waiting={} sessions={} under_way={}",
      id(), session_.up() ? 1 : 0, now.session.streams, now.connections, now.closing, now.dials,
      now.send_buffers, now.session.queued, now.held, now.session.lent, now.waiting,
      now.session.sessions, now.session.under_way);
}

}  // namespace virtproxy
