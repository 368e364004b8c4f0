// A channel's connections: who is let in, dialled, refused, waited for and buried.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "core/assert.h"
#include "uring/address.h"
#include "uring/channel.h"
#include "uring/origin.h"
#include "uring/sockets.h"

namespace virtproxy {
namespace {

// Dials in progress hold a descriptor and little else.
constexpr unsigned kMostDials = 4096;
// Begun before the other channels have their turn again.
constexpr unsigned kDialsPerTurn = 16;
// The kernel takes a hundred times as long for a connect(2) where its ports are nearly used up:
// then fewer.
constexpr Duration kDialTimePerTurn = std::chrono::microseconds(200);
constexpr unsigned kResetsPerTurn = 64;

// At once: descriptors that a peer can make the channel hold although its streams are over.
constexpr size_t kMostFarewells = 256;

}  // namespace

void Channel::on_opened(const Event& event) {
  const auto forward =
      std::find_if(config_.iforwards.begin(), config_.iforwards.end(),
                   [&](const ForwardSpec& f) { return f.service == event.service; });
  if (forward == config_.iforwards.end()) {
    if (refusals_.allow(loop_.now())) {
      const std::string service = printable(event.service);
      log_warn("channel {}: the other end asks for service {}, which is not offered here (-i {}:…)",
               id(), service, service);
    }
    session().reset(event.stream, Fault::kUnknownService, events_);
    return;
  }
  if (dials_ + dials_due_.size() >= kMostDials) {
    session().reset(event.stream, Fault::kTooManyStreams, events_);
    return;
  }
  if (log_enabled(LogLevel::kDebug)) {
    log_debug("channel {}: stream to service {} from {}", id(), event.service,
              describe(decode_origin(event.bytes).value_or(Origin{})));
  }
  add(event.stream, event.service);
  dials_due_.push_back({event.stream, &*forward});
}

// A peer may open thousands of streams in one breath, and reset them in the next.
void Channel::start_dials() {
  if (dials_due_.empty()) return;
  const Duration begun = loop_.spent();
  for (unsigned started = 0; started < kDialsPerTurn && !dials_due_.empty();) {
    const DialDue due = dials_due_.front();
    dials_due_.pop_front();
    Connection* connection = find(due.stream);
    if (connection == nullptr) continue;
    ++dials_;
    ++started;
    connection->dial(due.forward->endpoint, config_.dial_timeout);
    if (loop_.spent() - begun > kDialTimePerTurn) break;
  }
  if (!dials_due_.empty()) wake();
}

void Channel::accepted(int fd, const ForwardSpec& forward) {
  const bool wait = (choice_.choosing() || awaits_first_link()) && !draining_;
  if (!wait || held_clients_.size() >= config_.max_streams) return admit(fd, forward);
  held_clients_.push_back({fd, &forward});
}

// Clients whose INIT nobody answered have lost nothing: they can be asked for again in version 2.
void Channel::hold_unanswered() {
  for (size_t slot = 0; slot < connections_.size(); ++slot) {
    if (!connections_[slot]) continue;
    const auto forward = std::find_if(
        config_.oforwards.begin(), config_.oforwards.end(),
        [&](const ForwardSpec& f) { return f.service == connections_[slot]->service(); });
    if (forward == config_.oforwards.end()) continue;
    const int fd = connections_[slot]->give_back();
    if (fd >= 0) held_clients_.push_back({fd, &*forward});
  }
}

void Channel::admit_held() {
  for (const HeldClient& client : std::exchange(held_clients_, {})) {
    admit(client.fd, *client.forward);
  }
}

void Channel::refuse_held() {
  for (const HeldClient& client : std::exchange(held_clients_, {})) {
    refuse(client.fd, *client.forward);
  }
}

void Channel::admit(int fd, const ForwardSpec& forward) {
  const Origin origin = origin_of(fd);
  if (!config_.clients.admits(fd, origin)) {
    close_with_reset(fd);
    if (const auto hidden = strangers_.allow(loop_.now())) {
      log_warn("channel {}: service {}: client refused: {} is not on the list (--allow-…){}", id(),
               forward.service, describe(origin), and_others(*hidden));
    }
    return;
  }
  std::byte metadata[kMaxOriginSize];
  const size_t size = encode_origin(origin, metadata);
  std::optional<StreamKey> stream;
  if (!draining_) stream = session().open(forward.service, forward.priority, {metadata, size});
  if (!stream) return refuse(fd, forward);
  if (log_enabled(LogLevel::kDebug)) {
    log_debug("channel {}: client of service {} from {}", id(), forward.service, describe(origin));
  }
  add(*stream, forward.service).adopt(fd, forward.endpoint.kind);
  wake();
}

void Channel::refuse(int fd, const ForwardSpec& forward) {
  close_with_reset(fd);
  if (const auto hidden = refusals_.allow(loop_.now())) {
    log_warn("channel {}: service {}: client refused: {}{}", id(), forward.service,
             choice_.up() ? "no more streams (--max-streams here or there, or going away)"
                          : "the channel is down",
             and_others(*hidden));
  }
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
  const auto hidden = dial_failures_.allow(loop_.now());
  if (!hidden) return;
  log_info("channel {}: service {}: {}{}", id(), service, reason, and_others(*hidden));
}

void Channel::closing(Connection* connection) {
  auto& place = connections_[connection->stream().slot];
  VP_ASSERT(place.get() == connection);
  closing_.push_back(std::move(place));
  --open_connections_;
  wake();
}

void Channel::part_from(int fd) {
  if (farewells_.size() < kMostFarewells) {
    farewells_.push_back(std::make_unique<Farewell>(*this, fd));
  } else {
    close(fd);
  }
}

// Of thousands at once, some each turn: a reset costs the kernel as much as a message.
void Channel::close_with_reset(int fd) {
  if (resets_in_turn_ < kResetsPerTurn) {
    ++resets_in_turn_;
    virtproxy::close_with_reset(fd);
  } else {
    doomed_.push_back(fd);
    wake();
  }
}

void Channel::close_doomed() {
  resets_in_turn_ = 0;
  while (!doomed_.empty() && resets_in_turn_ < kResetsPerTurn) {
    const int fd = doomed_.back();
    doomed_.pop_back();
    close_with_reset(fd);
  }
  if (!doomed_.empty()) wake();
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
    size_t left = std::min(pool_.ready(size), waiting.size());
    while (left > 0 && !waiting.empty()) {
      Connection* connection = waiting.front();
      waiting.pop_front();
      if (!connection->closing()) --left;
      connection->buffer_came();
    }
    // Those had their turn, whether bytes were there for them or not: if not, nothing else may come
    // to give the others theirs.
    if (!waiting.empty() && pool_.ready(size) > 0) wake();
  }
}

void Channel::reap() {
  std::erase_if(farewells_, [](const auto& farewell) { return farewell->idle(); });
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

}  // namespace virtproxy
