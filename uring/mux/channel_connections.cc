// A channel's connections: who is let in, dialled, refused, waited for and buried.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "core/assert.h"
#include "uring/mux/channel.h"
#include "uring/net/address.h"
#include "uring/net/peer_identity.h"
#include "uring/net/sockets.h"

namespace virtproxy {
namespace {

// Dials in progress hold a descriptor and little else.
constexpr unsigned kMostConnects = 4096;
// Begun before the other channels have their turn again. The kernel takes a hundred times as long
// for a connect(2) where its ports are nearly used up: then fewer.
constexpr unsigned kConnectsPerTurn = 16;
constexpr unsigned kResetsPerTurn = 64;

// At once: descriptors that a peer can make the channel hold although its streams are over.
constexpr size_t kMostLingering = 256;

}  // namespace

void Channel::on_opened(const Event& event) {
  const auto forward =
      std::find_if(config_.iforwards.begin(), config_.iforwards.end(),
                   [&](const ForwardSpec& f) { return f.service == event.service; });
  if (forward == config_.iforwards.end()) {
    observers_.notify(&ChannelObserver::stream_refused, {event.service, Fault::kUnknownService});
    session().reset(event.stream, Fault::kUnknownService, events_);
    return;
  }
  if (connecting_ + pending_connects_.size() >= kMostConnects) {
    observers_.notify(&ChannelObserver::stream_refused, {event.service, Fault::kTooManyStreams});
    session().reset(event.stream, Fault::kTooManyStreams, events_);
    return;
  }
  observers_.notify(
      &ChannelObserver::stream_opened,
      {event.stream, event.service, StreamRole::kAcceptor, event.bytes, forward->address});
  add(event.stream, event.service, StreamRole::kAcceptor);
  pending_connects_.push_back({event.stream, &*forward});
}

// A peer may open thousands of streams in one breath, and reset them in the next.
void Channel::start_connects() {
  if (pending_connects_.empty()) return;
  TurnBudget budget(loop_, kConnectsPerTurn);
  while (!pending_connects_.empty() && budget.left()) {
    const PendingConnect due = pending_connects_.front();
    pending_connects_.pop_front();
    Connection* connection = find(due.stream);
    if (connection == nullptr) continue;
    ++connecting_;
    connection->connect(due.forward->address,
                        due.forward->connect_timeout.value_or(config_.connect_timeout));
    budget.spend();
  }
  if (!pending_connects_.empty()) wake();
}

Connection& Channel::add(StreamKey stream, std::string_view service, StreamRole role) {
  if (stream.slot >= connections_.size()) connections_.resize(stream.slot + 1);
  auto& place = connections_[stream.slot];
  VP_ASSERT(!place);
  place = std::make_unique<Connection>(*this, stream, service, role);
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

void Channel::closing(Connection* connection) {
  wake();
  if (connection->detached()) return;  // it leaves departed_ when its turn comes
  auto& place = connections_[connection->stream().slot];
  VP_ASSERT(place.get() == connection);
  --open_connections_;
  ended_.push_back(std::move(place));
  if (ended_.size() == 1 && unsettled() < kMostUnsettled) let_go_of_ended();
}

// Cancelling the operations of a connection and closing its socket takes the kernel as long as a
// message, and each operation completes by itself.
void Channel::let_go_of_ended() {
  if (ended_.empty()) return;
  TurnBudget budget(loop_);
  while (!ended_.empty() && unsettled() < kMostUnsettled && budget.left()) {
    ended_.front()->let_go();
    bury(std::move(ended_.front()));
    ended_.pop_front();
    budget.spend();
  }
  if (!ended_.empty() && unsettled() < kMostUnsettled) wake();
}

void Channel::bury(std::unique_ptr<Connection> connection) {
  Connection* const buried = connection.get();
  buried->place = closing_.size();
  closing_.push_back(std::move(connection));
  settled(buried);
}

void Channel::settled(Connection* connection) {
  wake();
  const bool buried =
      connection->place < closing_.size() && closing_[connection->place].get() == connection;
  if (!buried || connection->settled || !connection->idle()) return;
  connection->settled = true;
  settled_.push_back(connection);
}

void Channel::close_lingering(int fd) {
  LingeringClose::Client* const client = this;
  if (lingering_.size() < kMostLingering) {
    lingering_.push_back(std::make_unique<LingeringClose>(loop_, fd, client));
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
    fds_to_reset_.push_back(fd);
    wake();
  }
}

void Channel::close_fds_to_reset() {
  resets_in_turn_ = 0;
  while (!fds_to_reset_.empty() && resets_in_turn_ < kResetsPerTurn) {
    const int fd = fds_to_reset_.back();
    fds_to_reset_.pop_back();
    close_with_reset(fd);
  }
  if (!fds_to_reset_.empty()) wake();
}

// Resets every stream of a session that goes on.
void Channel::reset_all(Fault fault) {
  for (const auto& connection : connections_) {
    if (connection) session().reset(connection->stream(), fault, events_);
  }
  detach_all(fault);
}

// A session is over by `fault`. Its connections go out of the way of the next session, which has
// the slots of their streams at once. Ending thousands takes longer than others may wait: that is
// left to this and later turns.
void Channel::detach_all(Fault fault) {
  for (auto& connection : connections_) {
    if (!connection) continue;
    connection->detach(fault);
    departed_.push_back({std::move(connection), fault});
  }
  connections_.clear();
  open_connections_ = 0;
  pending_connects_.clear();
  wake();
}

void Channel::abort_departed() {
  if (departed_.empty()) return;
  TurnBudget budget(loop_);
  while (!departed_.empty() && unsettled() < kMostUnsettled && budget.left()) {
    Departed departed = std::move(departed_.back());
    departed_.pop_back();
    Connection& connection = *departed.connection;
    if (departed.fault == Fault::kUpgraded && !connection.closing()) take_back(connection);
    if (!connection.closing()) connection.abort(departed.fault);
    connection.let_go();
    bury(std::move(departed.connection));
    budget.spend();
  }
  if (!departed_.empty() && unsettled() < kMostUnsettled) wake();
}

void Channel::want_flush(Connection* connection) {
  if (connection->flush_wanted) return;
  connection->flush_wanted = true;
  flushing_.push_back(connection);
  wake();
}

void Channel::wait_for_buffer(Connection* connection) {
  connection->buffers_are_short();
  waiting_[static_cast<size_t>(connection->receive_size())].push_back(connection);
  wake();
}

void Channel::no_longer_waits(Connection* connection) {
  waiting_[static_cast<size_t>(connection->receive_size())].erase(connection);
}

// Buffers that came back go to those that wait, in the order in which they began to.
void Channel::hand_out_buffers() {
  pool_.replenish();
  for (const BufferSize size : {BufferSize::kSmall, BufferSize::kLarge}) {
    auto& waiting = waiting_[static_cast<size_t>(size)];
    size_t left = std::min(pool_.ready(size), waiting.size());
    while (left > 0 && !waiting.empty()) {
      Connection* connection = waiting.front();
      waiting.erase(connection);
      --left;
      connection->buffer_came();
    }
    // Those had their turn, whether bytes were there for them or not: if not, nothing else may come
    // to give the others theirs.
    if (!waiting.empty() && pool_.ready(size) > 0) wake();
  }
}

void Channel::reap() {
  std::erase_if(lingering_, [](const auto& lingering) { return lingering->idle(); });
  for (unsigned reaped = 0; reaped < kReapedPerTurn && !settled_.empty(); ++reaped) {
    Connection* const connection = settled_.back();
    if (connection->flush_wanted) break;  // the next turn takes it off that list
    settled_.pop_back();
    auto& place = closing_[connection->place];
    std::swap(place->place, closing_.back()->place);
    place.swap(closing_.back());
    closing_.pop_back();
  }
  if (!settled_.empty()) wake();
}

}  // namespace virtproxy
