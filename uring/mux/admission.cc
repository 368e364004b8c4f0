#include "uring/mux/admission.h"

#include <algorithm>
#include <utility>

#include "core/assert.h"
#include "core/wire/protocol_limits.h"

namespace virtproxy {
namespace {

// How long clients wait for the first transport of this process. The peer of the process before
// tries again with backoff: its next attempt comes as late as the time that the restart took.
constexpr Duration kFirstLinkTime = std::chrono::seconds(2);

// How long a client is held in total, however often the protocol is chosen anew: longer than one
// choice takes, which HELLOs of the peer can delay by ten times the grace.
constexpr int kHeldGraces = 12;
constexpr Duration kLeastHeldTime = std::chrono::seconds(5);

}  // namespace

Admission::Admission(ChannelContext& channel, StreamTable& streams, size_t most)
    : channel_(channel),
      streams_(streams),
      queue_(most),
      first_link_timer_(channel.loop.timers(), this),
      held_timer_(channel.loop.timers(), this),
      silence_timer_(channel.loop.timers(), this),
      grace_(kGrace) {
  first_link_timer_.set(channel.loop.now() + kFirstLinkTime);
}

void Admission::add(const WaitingClient& client) {
  if (closed_ || !queue_.push(client)) return refuse(client, why_no_stream());
  channel_.wakeup.wake();
}

void Admission::put_back(const WaitingClient& client) {
  if (closed_) return refuse(client, why_no_stream());
  queue_.put_back(client, hold_limit());
}

bool Admission::admit_next() {
  VP_ASSERT(channel_.events.empty());
  const bool holds = holds_clients();
  if (holds) queue_.hold_new(hold_limit());
  const auto client = holds ? queue_.take_overdue(channel_.loop.now()) : queue_.take();
  if (!client) return false;
  if (holds) {
    refuse(*client, why_held());
  } else if (unanswered() && peer_ == Peer::kMute && streams_.open_streams() > 0) {
    refuse(*client, RefusalReason::kNoAnswer);
  } else {
    admit(*client);
  }
  return true;
}

void Admission::end_turn() {
  if (queue_.empty()) return;
  auto deadline = queue_.deadline();
  if (deadline && peer_ == Peer::kMute) deadline = std::min(*deadline, answer_due());
  if (holds_clients() && deadline > channel_.loop.now()) {
    held_timer_.set(*deadline);
  } else {
    channel_.wakeup.wake();
  }
}

void Admission::admit(const WaitingClient& client) {
  Opener& opener = *client.opener;
  std::byte metadata[protocol_limits::kMaxMetadata];
  const size_t size = opener.describe(client.number, metadata);
  const auto stream =
      channel_.selector.session().open(opener.service(), opener.priority(), {metadata, size});
  if (!stream) return refuse(client, why_no_stream());
  streams_.add_client(*stream, client, {metadata, size});
  if (!unanswered()) return;
  asked_at_ = channel_.loop.now();
  if (!silence_timer_.armed()) silence_timer_.set(hold_limit());
}

void Admission::refuse(const WaitingClient& client, RefusalReason reason) {
  Opener& opener = *client.opener;
  channel_.observers.notify(&ChannelObserver::client_refused,
                            {opener.service(), reason, opener.fd_of(client.number)});
  opener.refuse(client.number);
}

void Admission::close() {
  closed_ = true;
  first_link_timer_.clear();
  while (const auto client = queue_.take()) client->opener->refuse(client->number);
}

void Admission::link_began(Duration grace) {
  grace_ = grace;
  peer_ = Peer::kUnknown;
}

void Admission::link_ended() {
  first_link_timer_.clear();
  silence_timer_.clear();
}

bool Admission::on_input() { return std::exchange(peer_, Peer::kHeard) != Peer::kHeard; }

void Admission::expired(Timer& timer) {
  if (&timer == &silence_timer_) return give_up_on_silence();
  channel_.wakeup.wake();
}

// OPEN or INIT was sent for clients, and nothing was received.
void Admission::give_up_on_silence() {
  if (!unanswered()) return;
  if (std::exchange(peer_, Peer::kMute) != Peer::kMute) {
    channel_.observers.notify(&ChannelObserver::session_silent, {Silence::kDoesNotAnswer});
  }
  streams_.reset_all(Fault::kTimedOut);
  while (const auto client = queue_.take()) refuse(*client, RefusalReason::kNoAnswer);
}

bool Admission::awaits_answer() const {
  if (!unanswered()) return false;
  return peer_ == Peer::kMute ? streams_.open_streams() > 0 && channel_.loop.now() < answer_due()
                              : streams_.open_streams() >= kMostProbes;
}

Instant Admission::hold_limit() const {
  return channel_.loop.now() + std::max(kHeldGraces * grace_, kLeastHeldTime);
}

RefusalReason Admission::why_held() const {
  return unanswered() ? RefusalReason::kNoAnswer : RefusalReason::kUnsettled;
}

RefusalReason Admission::why_no_stream() const {
  return channel_.selector.up() ? RefusalReason::kNoStream : RefusalReason::kChannelDown;
}

}  // namespace virtproxy
