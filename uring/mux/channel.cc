#include "uring/mux/channel.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/assert.h"
#include "uring/base/units.h"
#include "uring/mux/memory_shares.h"
#include "uring/net/address.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

static_assert(kHeaderSize + transport_traits::kSocket.max_frame + kTrailerSize <=
              ChannelReader::kLargestFrame);

// Memory that was not needed for this long goes back to the system.
constexpr Duration kTrimInterval = seconds(1);
// Where it is much, in portions.
constexpr Duration kTrimPause = milliseconds(10);

// A peer that breaks the protocol on a link of its own gets the next link ever later.
constexpr Duration kFirstBackoff = milliseconds(100);
constexpr unsigned kMostDoublings = 6;
constexpr Duration kStableAfter = seconds(10);

// Pipes hold bytes only while a socket is slow or a batch is being written: a few are enough. What
// they keep allocated in the kernel is beside the rest of the channel's memory.
constexpr uint64_t pipe_memory(uint64_t memory) { return memory / 2; }

// So does one that does nothing but come and go, though not by much.
constexpr Duration kShortTransport = seconds(1);
constexpr unsigned kFreeShortTransports = 8;
constexpr Duration kShortTransportBackoff = milliseconds(50);

// How long clients wait for the first link: most have nothing but a connect(2) before them.
constexpr Duration kFirstTransportTime = kGrace;

// For how long a client is held in all, however often the peer has the protocol chosen anew: longer
// than one choice takes, which greetings put off for ten times the grace.
constexpr int kHeldGraces = 12;
constexpr Duration kLeastHeldTime = seconds(5);

// How long a peer that has to greet (--protocol 2) may take before it is dropped or named.
constexpr std::chrono::seconds kGreetingTime{10};

constexpr Duration kBlockedInterval = milliseconds(100);

constexpr Duration kRecheckInterval = milliseconds(250);

// Connections that are flushed without a look at the clock.
constexpr size_t kMostFlushed = 64;

SessionConfig session_config(const ChannelConfig& config) {
  SessionConfig session;
  const TransportTraits& traits = traits_of(config.spec.transport);
  session.limits = derive_limits(std::min(receive_share(config.memory), traits.max_memory),
                                 std::min(config.max_streams, traits.max_streams),
                                 std::min(config.window, traits.max_window), traits.max_frame);
  session.quantum = traits.quantum;
  session.epoch_key = config.epoch_key;
  session.number_seed = config.number_seed;
  session.number_key = config.number_key;
  session.v1 = config.v1;
  return session;
}

}  // namespace

tl::expected<void, std::string> Channel::check(const ChannelConfig& config) {
  if (session_config(config).limits.initial_window > 0) return {};
  const uint64_t enough = memory_of_receive_share(least_receive_memory(config.max_streams));
  constexpr uint64_t kMiB = 1 << 20;
  return tl::unexpected(fmt::format(
      "too little memory: {} a channel do not suffice for {} streams; give --memory {} or more for "
      "each channel, or a smaller --max-streams",
      format_size(config.memory), config.max_streams,
      format_size((enough + kMiB - 1) / kMiB * kMiB)));
}

Channel::Channel(Loop& loop, ResolverDriver& resolver_driver, const ChannelConfig& config)
    : loop_(loop),
      resolver_driver_(resolver_driver),
      config_(config),
      selector_(session_config(config), config.protocol),
      pool_(loop.driver(), outbound_share(config.memory), config.first_buffer_group,
            traits_of(config.spec.transport).frame_headroom),
      pipes_(pipe_memory(config.memory)),
      source_(loop, resolver_driver, config_.spec, config_.peers, this),
      reader_(loop, this),
      writer_(loop, selector_, pool_, pipes_, this),
      timer_(loop.timers(), this),
      trim_timer_(loop.timers(), this),
      recheck_timer_(loop.timers(), this),
      first_transport_timer_(loop.timers(), this),
      held_timer_(loop.timers(), this),
      silence_timer_(loop.timers(), this),
      greeting_timer_(loop.timers(), this),
      admission_(config.max_streams),
      log_(loop, label()) {
  observers_.add(log_);
  observers_.add(counters_);
  for (const ForwardSpec& forward : config_.oforwards) {
    counters_.add_forward(forward, StreamRole::kOpener);
  }
  for (const ForwardSpec& forward : config_.iforwards) {
    counters_.add_forward(forward, StreamRole::kAcceptor);
  }
}

Channel::~Channel() { VP_ASSERT(idle()); }

void Channel::start(ChannelListenSockets listen_sockets) {
  VP_ASSERT(listen_sockets.forwards.size() == config_.oforwards.size());
  Listener::Client* const client = this;
  for (size_t i = 0; i < listen_sockets.forwards.size(); ++i) {
    const ForwardSpec& forward = config_.oforwards[i];
    bound_.push_back(std::move(listen_sockets.forwards[i].path));
    for (const int fd : listen_sockets.forwards[i].sockets) {
      listeners_.push_back(std::make_unique<Listener>(loop_, forward, fd, client));
    }
    observers_.notify(&ChannelObserver::listening, forward);
  }
  first_transport_timer_.set(loop_.now() + kFirstTransportTime);
  source_.start(std::move(listen_sockets.transport));
}

void Channel::wake() {
  if (awake_) return;
  awake_ = true;
  loop_.defer(this);
}

void Channel::run_deferred() {
  awake_ = false;
  busy_ = true;
  if (!trim_timer_.armed()) trim_timer_.set(loop_.now() + kTrimInterval);
  handle_events(nullptr);
  close_fds_to_reset();
  let_go_of_ended();
  abort_departed();
  admit_clients();
  start_connects();
  hand_out_buffers();
  flush_connections();
  handle_events(nullptr);
  if (transport_state_ == TransportState::kInUse) {
    writer_.write_on(events_, moved_ == Moved::kIn && !draining_ && nobody_waits());
    if (!writer_.idle()) moved_ = Moved::kOut;
    handle_events(nullptr);
    reader_.read_on();
    set_timer();
    if (!traits_->is_socket && open_connections_ > 0 && !recheck_timer_.armed()) {
      recheck_timer_.set(loop_.now() + kRecheckInterval);
    }
  } else {
    timer_.clear();
  }
  reap();
  if (transport_state_ == TransportState::kLetGo && reader_.idle() && writer_.idle()) {
    transport_state_ = TransportState::kNone;
    loop_.driver().remove_file(file_);
    file_ = {};
    source_.lost(reconnect_backoff_);
  }
}

void Channel::flush_connections() {
  if (flushing_.empty()) return;
  std::optional<TurnBudget> budget;
  if (flushing_.size() > kMostFlushed) budget.emplace(loop_);
  size_t flushed = 0;
  while (flushed < flushing_.size() && (!budget || budget->left())) {
    Connection* const connection = flushing_[flushed++];
    connection->flush_wanted = false;
    connection->flush(moved_ == Moved::kOut && flushing_.size() == 1);
    if (budget) budget->spend();
  }
  flushing_.erase(flushing_.begin(), flushing_.begin() + static_cast<ptrdiff_t>(flushed));
  moved_ = Moved::kIn;
  if (!flushing_.empty()) wake();
}

void Channel::set_timer() {
  if (selector_.behind(loop_.now())) return timer_.set(loop_.now());
  const auto deadline = selector_.deadline();
  if (!deadline) return timer_.clear();
  // Due already, and not written just now: the link does not take it.
  timer_.set(*deadline > loop_.now() ? *deadline : loop_.now() + kBlockedInterval);
}

void Channel::expired(Timer& timer) {
  if (&timer == &trim_timer_) return trim();
  if (&timer == &recheck_timer_) return recheck_device();
  if (&timer == &silence_timer_) return give_up_on_silence();
  if (&timer == &greeting_timer_) return on_no_greeting();
  if (&timer == &timer_) {
    const bool again = selector_.tick(loop_.now(), events_);
    handle_events(nullptr);
    if (again) reader_.offer_again();
  }
  wake();
}

// virtio-serial is known to lose wake-ups. While no stream is open this ends, once it has found that
// none is lost.
void Channel::recheck_device() {
  if (transport_state_ != TransportState::kInUse || traits_->is_socket) return;
  const bool settled = reader_.recheck();
  writer_.recheck();
  if (open_connections_ > 0 || !settled) recheck_timer_.set(loop_.now() + kRecheckInterval);
}

void Channel::trim() {
  const bool more = pool_.trim();
  if (pool_.trims_on()) return trim_timer_.set(loop_.now() + kTrimPause);
  const bool busy = std::exchange(busy_, false);
  if (open_connections_ == 0) writer_.trim();
  pipes_.trim();
  if (!busy) {
    reader_.trim();
    if (config_.release_memory != nullptr) config_.release_memory();
  }
  if (busy || more) trim_timer_.set(loop_.now() + kTrimInterval);
}

// --- the link and the session -----------------------------------------------------------------

void Channel::transport_ready(int fd, const TransportTraits& traits) {
  VP_ASSERT(transport_state_ == TransportState::kNone);
  transport_state_ = TransportState::kInUse;
  traits_ = &traits;
  transport_since_ = loop_.now();
  file_ = loop_.driver().add_file(fd, traits.is_socket ? FileUse::kChannel : FileUse::kDevice);
  observers_.notify(&ChannelObserver::transport_up);
  writer_.attach(file_, traits);
  reader_.attach(file_, traits);
  // A port is asked first whether anybody is on its other side.
  if (!traits.has_presence) begin_session();
}

void Channel::transport_unavailable() {
  first_transport_timer_.clear();
  wake();
}

// A device hides that the other end was replaced, and a tty may lose bytes besides.
uint64_t Channel::wanted_features() const {
  const bool checksum = !traits_->preserves_bytes || config_.integrity == Integrity::kChecksum;
  const bool commit = (!traits_->reports_peer_loss && traits_->preserves_bytes) ||
                      config_.integrity == Integrity::kCommit;
  return (checksum ? feature::kChecksumTrailer : 0) | (commit ? feature::kCommitTrailer : 0);
}

// How long a peer that greets may take to do so.
Duration Channel::grace() const {
  return traits_->has_line_speed ? grace_on_line(config_.spec.address.port) : kGrace;
}

Instant Channel::hold_limit() const {
  return loop_.now() + std::max(kHeldGraces * grace(), kLeastHeldTime);
}

void Channel::begin_session() {
  heard_ = mute_ = false;
  if (config_.protocol == ProtocolMode::kV2) greeting_timer_.set(loop_.now() + kGreetingTime);
  selector_.transport_up(loop_.now(), grace(), wanted_features(), events_);
  handle_events(nullptr);
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
  const bool was_up = selector_.up();
  selector_.transport_down(events_);
  discard_events();
  if (was_up) {
    observers_.notify(&ChannelObserver::session_down, {Fault::kTransportLost, reason});
  }
  detach_all(Fault::kTransportLost);
  first_transport_timer_.clear();
  silence_timer_.clear();
  greeting_timer_.clear();
  wake();
}

void Channel::channel_failed(const std::string& reason) {
  if (transport_state_ != TransportState::kInUse) return;
  if (loop_.now() - transport_since_ > kShortTransport) short_transports_ = 0;
  reconnect_backoff_ =
      ++short_transports_ > kFreeShortTransports ? kShortTransportBackoff : Duration::zero();
  release_transport();
  end_session(reason);
  observers_.notify(&ChannelObserver::transport_lost, {reason});
}

void Channel::release_transport() {
  transport_state_ = TransportState::kLetGo;
  reader_.detach();
  writer_.detach();
  wake();
}

size_t Channel::channel_input(std::span<const std::byte> bytes, ReadBuffer* buffer) {
  wake();
  const bool was_unanswered = unanswered();
  if (!std::exchange(heard_, true)) source_.heard();
  const size_t used = feed(selector_, bytes, loop_.now(), events_, [&] {
    handle_events(buffer);
    return transport_state_ == TransportState::kInUse;
  });
  if (was_unanswered && selector_.up() && selector_.protocol() == 1) report_up();
  return used;
}

bool Channel::splices() {
  return loop_.driver().features().splice && traits_->is_socket && session().up() &&
         !session().uses_trailers() && session().largest_payload() >= kLeastSpliced;
}

bool Channel::may_splice() {
  const auto [stream, left] = session().arriving();
  if (left == 0 || !splices()) return false;
  Connection* connection = find(stream);
  return connection != nullptr && connection->can_splice(left);
}

ssize_t Channel::splice_payload(int fd) {
  const auto [stream, left] = session().arriving();
  return connection_of(stream).splice_from(fd, left);
}

// --- events -----------------------------------------------------------------------------------

// Handling may add events, reset streams that events further on still name, and discard events. It
// opens no stream and begins no session.
void Channel::handle_events(ReadBuffer* buffer) {
  VP_ASSERT(next_event_ == 0);
  while (next_event_ < events_.size()) {
    const Event event = events_[next_event_++];
    handle(event, buffer);
  }
  discard_events();
}

void Channel::discard_events() {
  events_.clear();
  next_event_ = 0;
}

void Channel::handle(const Event& event, ReadBuffer* buffer) {
  switch (event.kind) {
    case Event::Kind::kUp:
      return on_up();
    case Event::Kind::kDown:
      return on_down(event.fault);
    case Event::Kind::kOpened:
      return on_opened(event);
    case Event::Kind::kGoingAway:
      return observers_.notify(&ChannelObserver::peer_going_away);
    case Event::Kind::kGlitch:
      return observers_.notify(&ChannelObserver::glitch_seen, {event.glitch, event.count});
    case Event::Kind::kNoVersion:
      return observers_.notify(&ChannelObserver::no_common_version, {event.fault});
    default:
      break;
  }
  Connection* connection = find(event.stream);
  if (connection == nullptr) return;
  switch (event.kind) {
    case Event::Kind::kData:
      return connection->deliver(event.bytes, buffer);
    case Event::Kind::kEnd:
      return connection->peer_ended();
    case Event::Kind::kCredit:
      return connection->credit_arrived();
    case Event::Kind::kReset:
      if (event.fault == Fault::kStalled) {
        observers_.notify(&ChannelObserver::stream_held_back,
                          {event.stream, connection->service(), connection->role(),
                           connection->fd(), event.count});
      }
      return connection->abort(event.fault);
    case Event::Kind::kAborted:
      observers_.notify(&ChannelObserver::stream_broken_off, {event.stream, connection->service()});
      return connection->peer_broke_off();
    case Event::Kind::kClosed:
      return connection->finish();
    default:
      return;
  }
}

void Channel::on_up() {
  up_since_ = loop_.now();
  first_transport_timer_.clear();
  greeting_timer_.clear();
  if (unanswered()) {
    observers_.notify(&ChannelObserver::session_silent, {Silence::kSentNothing});
  } else {
    report_up();
  }
  wake();
}

void Channel::report_up() {
  observers_.notify(&ChannelObserver::session_up,
                    {selector_.protocol(), selector_.description(), source_.peer()});
}

// On a listener such a peer keeps the next one out. A connection that is dialled does not, and
// behind a device or an emulator's socket the other end may start at any time.
void Channel::on_no_greeting() {
  if (transport_listens(config_.spec.transport)) {
    observers_.notify(&ChannelObserver::peer_dropped, {source_.peer(), kGreetingTime});
    return channel_failed("the other end has not greeted");
  }
  observers_.notify(&ChannelObserver::session_silent,
                    {heard_ ? Silence::kNotGreeted : Silence::kSentNothing});
}

void Channel::on_down(Fault fault) {
  observers_.notify(&ChannelObserver::session_down, {fault, fault_text(fault)});
  detach_all(fault);
  const bool restarted = fault == Fault::kPeerRestarted || fault == Fault::kUpgraded;
  if (restarted || session().uses_trailers()) return;
  // Where the link reports that a peer is gone, a peer that broke the protocol is dropped with it.
  if (loop_.now() - up_since_ > kStableAfter) bad_transports_ = 0;
  reconnect_backoff_ = kFirstBackoff * (1u << std::min(bad_transports_, kMostDoublings));
  ++bad_transports_;
  release_transport();
  selector_.transport_down(events_);
  discard_events();
}

// --- the end ----------------------------------------------------------------------------------

void Channel::drain() {
  draining_ = true;
  for (BoundPath& path : bound_) path.remove();
  for (auto& listener : listeners_) listener->stop();
  source_.stop_listening();
  selector_.go_away();
  first_transport_timer_.clear();
  while (const auto client = admission_.take()) close_with_reset(client->fd);
  wake();
}

void Channel::stop() {
  drain();
  reset_all(Fault::kGoingAway);
  for (const auto& lingering : lingering_) lingering->end();
  wake();
}

void Channel::disconnect() {
  if (transport_state_ == TransportState::kInUse) {
    release_transport();
    end_session("stopped");
  }
  source_.stop();
}

bool Channel::idle() const {
  return drained() && reader_.idle() && writer_.idle() && source_.idle() &&
         transport_state_ == TransportState::kNone &&
         std::all_of(listeners_.begin(), listeners_.end(),
                     [](const auto& listener) { return listener->idle(); });
}

}  // namespace virtproxy
