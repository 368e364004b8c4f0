#include "uring/mux/channel.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/assert.h"
#include "uring/net/address.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

using limits::memory_of_receive_share;
using limits::outbound_share;
using limits::receive_share;

// Spliced payload gains from large frames. A port's is written, and a small message waits for it.
constexpr uint32_t kSocketFrame = 256 * 1024;
// It fills one receive buffer, so that neither is ever cut for the other.
constexpr uint32_t kPortFrame = ReceivePool::kFramedBytes;
static_assert(kHeaderSize + kSocketFrame + kTrailerSize <= ChannelReader::kLargestFrame);
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
// Where it is much, in portions.
constexpr Duration kTrimPause = milliseconds(10);

// A peer that breaks the protocol on a link of its own gets the next link ever later.
constexpr Duration kFirstPatience = milliseconds(100);
constexpr unsigned kMostDoublings = 6;
constexpr Duration kGoodConduct = seconds(10);

// Pipes hold bytes only while a socket is slow or a batch is being written: a few are enough. What
// they keep allocated in the kernel is beside the rest of the channel's memory.
constexpr uint64_t pipe_memory(uint64_t memory) { return memory / 2; }

// So does one that does nothing but come and go, though not by much.
constexpr Duration kShortLink = seconds(1);
constexpr unsigned kFreeShortLinks = 8;
constexpr Duration kShortLinkPatience = milliseconds(50);

// How long clients wait for the first link: most have nothing but a connect(2) before them.
constexpr Duration kFirstLinkTime = kGrace;

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
  if (config.spec.method == Method::kIsaSerial) {
    session.limits = derive_limits(std::min(receive_share(config.memory), kTtyMemory),
                                   std::min(config.max_streams, kTtyStreams),
                                   std::min(config.window, kTtyWindow), kTtyFrame);
    session.quantum = kTtyQuantum;
  } else {
    session.limits =
        derive_limits(receive_share(config.memory), config.max_streams, config.window,
                      config.spec.method == Method::kVirtioSerial ? kPortFrame : kSocketFrame);
  }
  session.epoch_key = config.epoch_key;
  session.number_seed = config.number_seed;
  session.number_key = config.number_key;
  session.old = config.old;
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

Channel::Channel(Loop& loop, Resolution& resolution, const ChannelConfig& config)
    : loop_(loop),
      resolution_(resolution),
      config_(config),
      choice_(session_config(config), config.protocol),
      pool_(loop.ring(), outbound_share(config.memory), config.first_buffer_group,
            config.spec.method == Method::kVirtioSerial),
      pipes_(pipe_memory(config.memory)),
      link_(loop, resolution, config_.spec, config_.peers, this),
      reader_(loop, this),
      writer_(loop, choice_, pool_, pipes_, this),
      timer_(loop.timers(), this),
      trim_timer_(loop.timers(), this),
      recheck_timer_(loop.timers(), this),
      first_link_timer_(loop.timers(), this),
      held_timer_(loop.timers(), this),
      silence_timer_(loop.timers(), this),
      greeting_timer_(loop.timers(), this),
      admission_(config.max_streams),
      presence_(loop, id()) {}

Channel::~Channel() { VP_ASSERT(idle()); }

void Channel::start(ChannelDoors doors) {
  VP_ASSERT(doors.forwards.size() == config_.oforwards.size());
  Listener::Client* const client = this;
  for (size_t i = 0; i < doors.forwards.size(); ++i) {
    const ForwardSpec& forward = config_.oforwards[i];
    bound_.push_back(std::move(doors.forwards[i].path));
    for (const int fd : doors.forwards[i].sockets) {
      listeners_.push_back(std::make_unique<Listener>(loop_, forward, fd, client));
    }
    log_info("channel {}: listening on {} for service {}", id(), forward.endpoint.to_string(),
             forward.service);
  }
  first_link_timer_.set(loop_.now() + kFirstLinkTime);
  link_.start(std::move(doors.link));
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
  close_doomed();
  let_go_of_ended();
  abort_departed();
  admit_clients();
  start_dials();
  hand_out_buffers();
  flush_connections();
  handle_events(nullptr);
  if (link_state_ == LinkState::kInUse) {
    writer_.write_on(events_, moved_ == Moved::kIn && !draining_ && nobody_waits());
    if (!writer_.idle()) moved_ = Moved::kOut;
    handle_events(nullptr);
    reader_.read_on();
    set_timer();
    if (link_kind_ != Link::Kind::kSocket && open_connections_ > 0 && !recheck_timer_.armed()) {
      recheck_timer_.set(loop_.now() + kRecheckInterval);
    }
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
  if (choice_.behind(loop_.now())) return timer_.set(loop_.now());
  const auto deadline = choice_.deadline();
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
    const bool again = choice_.tick(loop_.now(), events_);
    handle_events(nullptr);
    if (again) reader_.offer_again();
  }
  wake();
}

// virtio-serial is known to lose wake-ups. While no stream is open this ends, once it has found that
// none is lost.
void Channel::recheck_device() {
  if (link_state_ != LinkState::kInUse || link_kind_ == Link::Kind::kSocket) return;
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

void Channel::link_ready(int fd, Link::Kind kind) {
  VP_ASSERT(link_state_ == LinkState::kNone);
  link_state_ = LinkState::kInUse;
  link_kind_ = kind;
  link_since_ = loop_.now();
  // A device is not registered: it could not be opened again until the ring lets go of it, and it
  // cannot be shut down (see Link::hang_up).
  file_ = kind == Link::Kind::kSocket ? loop_.ring().add_file(fd) : File{fd, -1};
  log_debug("channel {}: link established", id());
  writer_.attach(file_, kind);
  reader_.attach(file_, kind);
  // A port is asked first whether anybody is on its other side.
  if (kind != Link::Kind::kPort) begin_session();
}

void Channel::link_failed() {
  first_link_timer_.clear();
  wake();
}

// A device hides that the other end was replaced, and a tty may lose bytes besides.
uint64_t Channel::wanted_features() const {
  const bool checksum = link_kind_ == Link::Kind::kTty || config_.seal == Seal::kChecksum;
  const bool commit = link_kind_ == Link::Kind::kPort || config_.seal == Seal::kCommit;
  return (checksum ? feature::kChecksumTrailer : 0) | (commit ? feature::kCommitTrailer : 0);
}

// How long a peer that greets may take to do so.
Duration Channel::grace() const {
  return link_kind_ == Link::Kind::kTty ? grace_on_line(config_.spec.endpoint.port) : kGrace;
}

Instant Channel::hold_limit() const {
  return loop_.now() + std::max(kHeldGraces * grace(), kLeastHeldTime);
}

void Channel::begin_session() {
  heard_ = mute_ = false;
  if (config_.protocol == ProtocolMode::kNew) greeting_timer_.set(loop_.now() + kGreetingTime);
  choice_.link_up(loop_.now(), grace(), wanted_features(), events_);
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
  const bool was_up = choice_.up();
  choice_.link_down(events_);
  discard_events();
  detach_all(Fault::kLinkLost);
  first_link_timer_.clear();
  silence_timer_.clear();
  greeting_timer_.clear();
  if (was_up) presence_.changed("down: " + reason);
  wake();
}

void Channel::channel_failed(const std::string& reason) {
  if (link_state_ != LinkState::kInUse) return;
  log_debug("channel {}: link lost: {}", id(), reason);
  if (loop_.now() - link_since_ > kShortLink) short_links_ = 0;
  link_patience_ = ++short_links_ > kFreeShortLinks ? kShortLinkPatience : Duration::zero();
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
  wake();
  const bool was_unanswered = unanswered();
  if (!std::exchange(heard_, true)) link_.heard();
  const size_t used = feed(choice_, bytes, loop_.now(), events_, [&] {
    handle_events(slab);
    return link_state_ == LinkState::kInUse;
  });
  if (was_unanswered && choice_.up() && choice_.protocol() == 1) say_up();
  return used;
}

bool Channel::splices() {
  return loop_.ring().features().splice && link_kind_ == Link::Kind::kSocket && session().up() &&
         !session().uses_trailers() && session().largest_payload() >= kLeastSpliced;
}

bool Channel::may_pass() {
  const auto [stream, left] = session().arriving();
  if (left == 0 || !splices()) return false;
  Connection* connection = find(stream);
  return connection != nullptr && connection->can_splice(left);
}

ssize_t Channel::pass(int fd) {
  const auto [stream, left] = session().arriving();
  return connection_of(stream).splice_from(fd, left);
}

// --- events -----------------------------------------------------------------------------------

// Handling may add events, reset streams that events further on still name, and discard events. It
// opens no stream and begins no session.
void Channel::handle_events(ReadSlab* slab) {
  VP_ASSERT(next_event_ == 0);
  while (next_event_ < events_.size()) {
    const Event event = events_[next_event_++];
    handle(event, slab);
  }
  discard_events();
}

void Channel::discard_events() {
  events_.clear();
  next_event_ = 0;
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
      if (const auto hidden = departures_.allow(loop_.now())) {
        log_info("channel {}: the other end is going away{}", id(), and_others(*hidden));
      }
      return;
    case Event::Kind::kOddity:
      return on_oddity(event);
    case Event::Kind::kNoVersion:
      if (versions_.allow(loop_.now())) {
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
      if (event.fault == Fault::kStalled) on_stalled(event, *connection);
      log_debug("channel {}: service {}: stream reset: {}", id(), connection->service(),
                fault_text(event.fault));
      return connection->abort();
    case Event::Kind::kAborted:
      log_debug("channel {}: service {}: the application at the other end broke off", id(),
                connection->service());
      return connection->peer_broke_off();
    case Event::Kind::kClosed:
      return connection->finish();
    default:
      return;
  }
}

void Channel::on_up() {
  up_since_ = loop_.now();
  first_link_timer_.clear();
  greeting_timer_.clear();
  if (unanswered()) {
    presence_.changed("connected, but the other end has sent nothing", LogLevel::kWarn);
  } else {
    say_up();
  }
  wake();
}

void Channel::say_up() {
  presence_.changed(fmt::format("up, protocol {}{}", choice_.protocol(), choice_.description()));
}

// On a listener such a peer keeps the next one out. A connection that is dialled does not, and
// behind a device or an emulator's socket the other end may start at any time.
void Channel::on_no_greeting() {
  if (method_listens(config_.spec.method)) {
    log_warn("channel {}: the peer, {}, has not greeted within {} s (--protocol 2): dropped", id(),
             link_.peer(), kGreetingTime.count());
    return channel_failed("the other end has not greeted");
  }
  presence_.changed(fmt::format("connected, but the other end has {}",
                                heard_ ? "not greeted (--protocol 2)" : "sent nothing"),
                    LogLevel::kWarn);
}

void Channel::on_stalled(const Event& event, const Connection& connection) {
  const auto hidden = stalls_.allow(loop_.now());
  if (!hidden) return;
  log_warn(
      "channel {}: service {}: closed {}, stream {} of the other end: it took nothing and held the "
      "channel back{}",
      id(), connection.service(), connection.describe(), event.count, and_others(*hidden));
}

void Channel::on_oddity(const Event& event) {
  const OddityRow& row = oddity_row(event.oddity);
  if (row.expected) {
    log_debug("channel {}: the other end sent {} ({}): {}", id(), row.text, event.count,
              row.outcome);
  } else if (const auto hidden = oddities_.allow(loop_.now())) {
    log_warn("channel {}: the other end sent {} ({}): {}{}", id(), row.text, event.count,
             row.outcome, and_others(*hidden));
  }
}

void Channel::on_down(Fault fault) {
  presence_.changed("down: " + std::string(fault_text(fault)));
  detach_all(fault);
  const bool restarted = fault == Fault::kPeerRestarted || fault == Fault::kUpgraded;
  if (restarted || session().uses_trailers()) return;
  // On a link that tells when a peer goes, a broken peer is rid of by dropping the link.
  if (loop_.now() - up_since_ > kGoodConduct) bad_links_ = 0;
  link_patience_ = kFirstPatience * (1u << std::min(bad_links_, kMostDoublings));
  ++bad_links_;
  let_go_of_link();
  choice_.link_down(events_);
  discard_events();
}

// --- the end ----------------------------------------------------------------------------------

void Channel::drain() {
  draining_ = true;
  for (BoundPath& path : bound_) path.remove();
  for (auto& listener : listeners_) listener->stop();
  link_.stop_listening();
  choice_.go_away();
  first_link_timer_.clear();
  while (const auto client = admission_.take()) close_with_reset(client->fd);
  wake();
}

void Channel::stop() {
  drain();
  for (size_t slot = 0; slot < connections_.size(); ++slot) {
    if (!connections_[slot]) continue;
    session().reset(connections_[slot]->stream(), Fault::kGoingAway, events_);
  }
  detach_all(Fault::kGoingAway);
  for (const auto& farewell : farewells_) farewell->end();
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
  return drained() && reader_.idle() && writer_.idle() && link_.idle() &&
         link_state_ == LinkState::kNone &&
         std::all_of(listeners_.begin(), listeners_.end(),
                     [](const auto& listener) { return listener->idle(); });
}

Channel::Figures Channel::figures() {
  Figures figures;
  figures.session = choice_.figures();
  figures.connections = open_connections_;
  figures.closing = departed_.size() + ended_.size() + closing_.size() + farewells_.size();
  figures.dials = dials_;
  figures.send_buffers = pool_.in_use();
  for (const auto& connection : connections_) {
    if (connection) figures.held += connection->held();
  }
  for (const Departed& departed : departed_) figures.held += departed.connection->held();
  for (const auto& connection : ended_) figures.held += connection->held();
  figures.waiting = waiting_[0].size() + waiting_[1].size();
  figures.pipes = pipes_.in_use();
  return figures;
}

void Channel::log_figures() {
  const Figures now = figures();
  log_answer(
      "stats channel={} up={} protocol={} streams={} connections={} closing={} dials={} "
      "send_buffers={} send_bytes={} held_bytes={} granted_bytes={} waiting={} sessions={} "
      "under_way={} pipes={}",
      id(), choice_.up() && !unanswered() ? 1 : 0, choice_.up() ? choice_.protocol() : 0, now.session.streams,
      now.connections, now.closing, now.dials, now.send_buffers, now.session.queued, now.held,
      now.session.lent, now.waiting, now.session.sessions, now.session.under_way, now.pipes);
}

}  // namespace virtproxy
