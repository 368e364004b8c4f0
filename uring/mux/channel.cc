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

static_assert(kHeaderSize + kLargestPayload + kTrailerSize <= ChannelReader::kLargestFrame);

// Memory that was not needed for this long is returned to the system.
constexpr Duration kTrimInterval = seconds(1);
// Between two portions, if it is much.
constexpr Duration kTrimPause = milliseconds(10);

// Pipes hold bytes only while a socket is slow or a batch is being written, so a few are enough.
// What they keep allocated in the kernel comes on top of the channel's memory.
constexpr uint64_t pipe_memory(uint64_t memory) { return memory / 2; }

constexpr Duration kBlockedInterval = milliseconds(100);

constexpr Duration kRecheckInterval = milliseconds(250);

// Clients that are admitted or refused in one turn.
constexpr unsigned kAdmissionsPerTurn = 64;

SessionConfig session_config(const ChannelConfig& config) {
  SessionConfig session;
  const TransportTraits& traits = config.spec.transport->traits;
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

Channel::Channel(Loop& loop, ResolverDriver& resolver_driver, const ChannelConfig& config,
                 const ServiceRegistry& services)
    : config_(config),
      services_(services),
      context_{config.spec.name,
               loop,
               {session_config(config), config.protocol},
               {loop.driver(), outbound_share(config.memory), config.first_buffer_group,
                config.spec.transport->traits.frame_headroom},
               {},
               PipePool(pipe_memory(config.memory)),
               {loop, this}},
      log_(loop, label()),
      streams_(context_, services, this),
      admission_(context_, streams_, config.max_streams),
      source_(config.spec.transport->make_source(
          {loop, resolver_driver, config_.spec, config_.peers, this})),
      reader_(loop, this),
      writer_(loop, context_.selector, context_.buffers, context_.pipes, this),
      timer_(loop.timers(), this),
      trim_timer_(loop.timers(), this),
      recheck_timer_(loop.timers(), this),
      greeting_timer_(loop.timers(), this),
      traits_(&config.spec.transport->traits) {
  context_.observers.add(log_);
  context_.observers.add(context_.counters);
}

bool Channel::reset_stream(StreamKey key) {
  StreamHandle* const stream = streams_.find(key);
  if (stream == nullptr) return false;
  stream->reset(Fault::kKilled);
  stream->endpoint().abort(Fault::kKilled);
  return true;
}

bool Channel::reset_link() {
  if (transport_state_ != TransportState::kInUse) return false;
  channel_failed("reset by an operator");
  return true;
}

Channel::~Channel() { VP_ASSERT(idle()); }

void Channel::start(Listening listening) { source_->start(std::move(listening)); }

void Channel::admit(Opener& opener, int client) { admission_.add({client, &opener}); }

void Channel::run_deferred() {
  context_.wakeup.begin();
  busy_ = true;
  if (!trim_timer_.armed()) trim_timer_.set(loop().now() + kTrimInterval);
  handle_events(nullptr);
  streams_.let_go_of_ended();
  streams_.abort_departed();
  admit_clients();
  streams_.start_opened();
  streams_.hand_out_buffers();
  flush_streams();
  handle_events(nullptr);
  if (transport_state_ == TransportState::kInUse) {
    writer_.write_on(context_.events,
                     moved_ == Moved::kIn && !draining_ && streams_.nothing_waits());
    if (!writer_.idle()) moved_ = Moved::kOut;
    handle_events(nullptr);
    reader_.read_on();
    set_timer();
    if (!traits_->is_socket && streams_.open_streams() > 0 && !recheck_timer_.armed()) {
      recheck_timer_.set(loop().now() + kRecheckInterval);
    }
  } else {
    timer_.clear();
  }
  streams_.reap();
  if (transport_state_ == TransportState::kLetGo && reader_.idle() && writer_.idle()) {
    transport_state_ = TransportState::kNone;
    loop().driver().remove_file(file_);
    file_ = {};
    source_->lost(backoff_);
  }
}

// A stream that is opened may get the slot of one that an event names, so no event may be left.
void Channel::admit_clients() {
  admission_.begin_turn();
  if (admission_.empty()) return;
  handle_events(nullptr);
  for (TurnBudget budget(loop(), kAdmissionsPerTurn); budget.left(); budget.spend()) {
    if (!admission_.admit_next()) break;
    handle_events(nullptr);
  }
  admission_.end_turn();
}

void Channel::flush_streams() {
  if (streams_.flush(moved_ == Moved::kOut)) moved_ = Moved::kIn;
}

void Channel::set_timer() {
  if (selector().behind(loop().now())) return timer_.set(loop().now());
  const auto deadline = selector().deadline();
  if (!deadline) return timer_.clear();
  // It is due already and was not written just now, so the transport has no room.
  timer_.set(*deadline > loop().now() ? *deadline : loop().now() + kBlockedInterval);
}

void Channel::expired(Timer& timer) {
  if (&timer == &trim_timer_) return trim();
  if (&timer == &recheck_timer_) return recheck_device();
  if (&timer == &greeting_timer_) return on_no_greeting();
  if (&timer == &timer_) {
    const bool again = selector().tick(loop().now(), context_.events);
    handle_events(nullptr);
    if (again) reader_.offer_again();
  }
  wake();
}

// virtio-serial may lose wake-ups. While no stream is open the checks stop, once one has found that
// none is lost.
void Channel::recheck_device() {
  if (transport_state_ != TransportState::kInUse || traits_->is_socket) return;
  const bool settled = reader_.recheck();
  writer_.recheck();
  if (streams_.open_streams() > 0 || !settled) recheck_timer_.set(loop().now() + kRecheckInterval);
}

void Channel::trim() {
  const bool more = context_.buffers.trim();
  if (context_.buffers.trims_on()) return trim_timer_.set(loop().now() + kTrimPause);
  const bool busy = std::exchange(busy_, false);
  if (streams_.open_streams() == 0) writer_.trim();
  context_.pipes.trim();
  if (!busy) {
    reader_.trim();
    if (config_.release_memory != nullptr) config_.release_memory();
  }
  if (busy || more) trim_timer_.set(loop().now() + kTrimInterval);
}

// --- the transport and the session ------------------------------------------------------------

void Channel::transport_ready(int fd, const TransportTraits& traits) {
  VP_ASSERT(transport_state_ == TransportState::kNone);
  transport_state_ = TransportState::kInUse;
  traits_ = &traits;
  reconnect_backoff_.connected(loop().now());
  file_ = loop().driver().add_file(fd, traits.is_socket ? FileUse::kChannel : FileUse::kDevice);
  context_.observers.notify(&ChannelObserver::transport_up);
  writer_.attach(file_, traits);
  reader_.attach(file_, traits);
  // A session on a port begins when its other side is found open.
  if (!traits.has_presence) begin_session();
}

void Channel::transport_unavailable() {
  admission_.link_unavailable();
  wake();
}

// A device does not report that the other end was replaced, and a tty may also lose bytes.
uint64_t Channel::wanted_features() const {
  const bool checksum = !traits_->preserves_bytes || config_.integrity == Integrity::kChecksum;
  const bool commit = (!traits_->reports_peer_loss && traits_->preserves_bytes) ||
                      config_.integrity == Integrity::kCommit;
  return (checksum ? feature::kChecksumTrailer : 0) | (commit ? feature::kCommitTrailer : 0);
}

// How long a peer of version 2 may take to send HELLO.
Duration Channel::grace() const {
  return traits_->has_line_speed ? grace_on_line(config_.spec.address.port) : kGrace;
}

void Channel::begin_session() {
  admission_.link_began(grace());
  if (config_.protocol == ProtocolMode::kV2) greeting_timer_.set(loop().now() + kGreetingTime);
  selector().transport_up(loop().now(), grace(), wanted_features(), context_.events);
  handle_events(nullptr);
  wake();
}

// On a listener such a peer keeps the next one waiting, so it is dropped. Elsewhere it is only
// logged: behind a device or an emulator's socket the other end may start at any time.
void Channel::on_no_greeting() {
  if (transport_listens(config_.spec.transport)) {
    context_.observers.notify(&ChannelObserver::peer_dropped, {source_->peer(), kGreetingTime});
    return channel_failed("the other end has not greeted");
  }
  context_.observers.notify(
      &ChannelObserver::session_silent,
      {admission_.has_input() ? Silence::kNotGreeted : Silence::kSentNothing});
}

void Channel::port_present(bool present) {
  if (present) {
    begin_session();
  } else {
    end_session("the other side of the port was closed");
  }
}

void Channel::end_session(const std::string& reason, Fault fault) {
  const bool was_up = selector().up();
  selector().transport_down(context_.events);
  discard_events();
  if (was_up) {
    context_.observers.notify(&ChannelObserver::session_down,
                              {fault, reason, streams_.open_streams()});
  }
  streams_.detach_all(Fault::kTransportLost);
  admission_.link_ended();
  greeting_timer_.clear();
  wake();
}

void Channel::channel_failed(const std::string& reason) {
  if (transport_state_ != TransportState::kInUse) return;
  const bool was_heard = admission_.has_input();
  // The next peer of a listener may be another one, which does not wait for what this one did.
  const bool doubles = !was_heard && !transport_listens(config_.spec.transport);
  using Heard = ReconnectBackoff::Heard;
  backoff_ = reconnect_backoff_.lost(loop().now(), doubles ? Heard::kNothing : Heard::kSomething);
  release_transport();
  end_session(reason);
  context_.observers.notify(&ChannelObserver::transport_lost, {reason});
  note_loss(was_heard);
}

// A listener that does not admit this end tells it nothing. While the other daemon is restarted, a
// relay between the two closes connections as well.
void Channel::note_loss(bool was_heard) {
  if (was_heard || reconnect_backoff_.short_in_row() <= 1) {
    unheard_since_ = loop().now();
    hang_ups_reported_ = false;
  }
  if (was_heard || hang_ups_reported_ || transport_listens(config_.spec.transport) ||
      reconnect_backoff_.short_in_row() < kHangUps || loop().now() - unheard_since_ < kHangUpTime) {
    return;
  }
  hang_ups_reported_ = true;
  context_.observers.notify(&ChannelObserver::session_silent, {Silence::kHangsUp});
}

void Channel::release_transport() {
  transport_state_ = TransportState::kLetGo;
  source_->shut();
  reader_.detach();
  writer_.detach();
  wake();
}

size_t Channel::channel_input(std::span<const std::byte> bytes, ReadBuffer* buffer) {
  wake();
  const bool was_unanswered = admission_.unanswered();
  if (admission_.on_input()) source_->heard();
  const size_t used = feed(selector(), bytes, loop().now(), context_.events, [&] {
    handle_events(buffer);
    return transport_state_ == TransportState::kInUse;
  });
  if (was_unanswered && selector().up() && selector().protocol() == 1) report_up();
  return used;
}

bool Channel::splices() {
  return loop().driver().features().splice && traits_->is_socket && session().up() &&
         !session().uses_trailers() && session().largest_payload() >= kLeastSpliced;
}

bool Channel::begin_splice() {
  const auto [stream, left] = session().arriving();
  if (left == 0 || !splices()) return false;
  StreamHandle* const handle = streams_.find(stream);
  return handle != nullptr && handle->endpoint().begin_splice(left);
}

ssize_t Channel::splice_payload(int fd) {
  const auto [stream, left] = session().arriving();
  return streams_.endpoint_of(stream).splice_from(fd, left);
}

// --- the end ----------------------------------------------------------------------------------

void Channel::drain() {
  draining_ = true;
  source_->stop_listening();
  selector().go_away();
  admission_.close();
  wake();
}

void Channel::stop() {
  drain();
  streams_.reset_all(Fault::kGoingAway);
  wake();
}

void Channel::disconnect() {
  if (transport_state_ == TransportState::kInUse) {
    release_transport();
    end_session("stopped", Fault::kGoingAway);
  }
  source_->stop();
}

bool Channel::idle() const {
  return drained() && reader_.idle() && writer_.idle() && source_->idle() &&
         transport_state_ == TransportState::kNone;
}

}  // namespace virtproxy
