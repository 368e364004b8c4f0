// A channel's clients, from the moment they are accepted until they have a stream or are refused.
#include <fmt/format.h>

#include <algorithm>

#include "core/assert.h"
#include "uring/mux/channel.h"
#include "uring/net/peer_identity.h"
#include "uring/net/sockets.h"

namespace virtproxy {
namespace {

// Admitted, or refused, before the other channels have their turn again.
constexpr unsigned kAdmissionsPerTurn = 64;

}  // namespace

// Who may not connect is turned away before it can take the place of another in the queue.
void Channel::accepted(int fd, const ForwardSpec& forward) {
  const AcceptedClient client{fd, &forward};
  const PeerIdentity identity = peer_identity_of(fd);
  if (!forward.clients.admits(fd, identity)) {
    return refuse(client, RefusalReason::kNotAllowed);
  }
  if (draining_ || !admission_.push(client)) return refuse(client, why_no_stream());
  wake();
}

// A stream that is opened may get the slot of one that an event names, so none may be left.
void Channel::admit_clients() {
  held_timer_.clear();
  if (admission_.empty()) return;
  handle_events(nullptr);
  const Instant now = loop_.now();
  for (TurnBudget budget(loop_, kAdmissionsPerTurn); budget.left(); budget.spend()) {
    const bool holds = holds_clients();
    if (holds) admission_.hold_new(hold_limit());
    const auto client = holds ? admission_.take_overdue(now) : admission_.take();
    if (!client) break;
    if (holds) {
      refuse(*client, why_held());
    } else if (unanswered() && mute_ && open_connections_ > 0) {
      refuse(*client, RefusalReason::kNoAnswer);
    } else {
      admit(*client);
      handle_events(nullptr);
    }
  }
  if (admission_.empty()) return;
  auto deadline = admission_.deadline();
  if (deadline && mute_) deadline = std::min(*deadline, answer_due());
  if (holds_clients() && deadline > now) {
    held_timer_.set(*deadline);
  } else {
    wake();
  }
}

void Channel::admit(const AcceptedClient& client) {
  VP_ASSERT(events_.empty());
  const ForwardSpec& forward = *client.forward;
  const PeerIdentity identity = peer_identity_of(client.fd);
  std::byte metadata[kMaxPeerIdentitySize];
  const size_t size = encode_peer_identity(identity, metadata);
  const auto stream = session().open(forward.service, forward.priority, {metadata, size});
  if (!stream) return refuse(client, why_no_stream());
  observers_.notify(
      &ChannelObserver::stream_opened,
      {*stream, forward.service, StreamRole::kOpener, {metadata, size}, forward.address});
  add(*stream, forward.service, StreamRole::kOpener).admit(client);
  if (!unanswered()) return;
  asked_at_ = loop_.now();
  if (!silence_timer_.armed()) silence_timer_.set(hold_limit());
}

// Clients have asked, and nothing has come.
void Channel::give_up_on_silence() {
  if (!unanswered()) return;
  if (!std::exchange(mute_, true)) {
    observers_.notify(&ChannelObserver::session_silent, {Silence::kDoesNotAnswer});
  }
  reset_all(Fault::kTimedOut);
  while (const auto client = admission_.take()) {
    refuse(*client, RefusalReason::kNoAnswer);
  }
}

RefusalReason Channel::why_held() const {
  return unanswered() ? RefusalReason::kNoAnswer : RefusalReason::kUnsettled;
}

void Channel::refuse(const AcceptedClient& client, RefusalReason reason) {
  observers_.notify(&ChannelObserver::client_refused, {client.forward->service, reason, client.fd});
  close_with_reset(client.fd);
}

RefusalReason Channel::why_no_stream() const {
  return selector_.up() ? RefusalReason::kNoStream : RefusalReason::kChannelDown;
}

// A client whose INIT was not answered has lost nothing: its stream can be opened in version 2.
void Channel::take_back(Connection& connection) {
  const auto client = connection.give_back();
  if (!client) return;
  if (draining_) return refuse(*client, why_no_stream());
  admission_.put_back(*client, hold_limit());
}

}  // namespace virtproxy
