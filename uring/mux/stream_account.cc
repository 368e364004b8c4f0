#include "uring/mux/stream_account.h"

#include <utility>

namespace virtproxy {

void StreamAccount::begin_stall(StallReason reason) {
  if (!stall_times_) stall_times_ = std::make_unique<Stalls>();
  stalls_ |= bit(reason);
  const Instant now = loop_.now();
  stall_times_->since[static_cast<size_t>(reason)] = now;
  if (reason == StallReason::kCredit) stall_times_->unread = unread_.until(now);
  observers_.notify(&ChannelObserver::stream_stalled, {stream_, service_, reason, now});
}

void StreamAccount::end_stall(StallReason reason) {
  stalls_ &= static_cast<uint8_t>(~bit(reason));
  const Instant since = stall_times_->since[static_cast<size_t>(reason)];
  const Duration duration = loop_.now() - since;
  Duration unread{};
  if (reason == StallReason::kCredit) unread = unread_.until(loop_.now()) - stall_times_->unread;
  stall_times_->over[static_cast<size_t>(reason)] += duration - unread;
  waited_for_channel_ += unread;
  observers_.notify(&ChannelObserver::stream_unstalled,
                    {stream_, service_, reason, since, duration});
}

// Bytes that have not left are the reason for which there is no credit for more.
void StreamAccount::credit_is_out() {
  if (unsent_ == 0) return stall(StallReason::kCredit);
  credit_is_out_ = true;
}

void StreamAccount::count_wait_for_channel(Instant now) {
  waited_for_channel_ += now - unsent_since_;
  channel_waits_.renew(unsent_since_, now);
  unsent_since_ = now;
}

StreamView StreamAccount::view() const {
  const Instant now = loop_.now();
  StreamView view{stream_, service_, role_, bytes_, now - opened_at_, std::nullopt};
  const auto waited = [&view](StallReason reason) -> Duration& {
    return view.waited[static_cast<size_t>(reason)];
  };
  const auto add_wait = [&](StallReason reason, Duration waits) {
    if (view.waits_for && waits <= view.waits) return;
    view.waits_for = reason;
    view.waits = waits;
  };
  waited(StallReason::kChannel) = waited_for_channel_;
  if (unsent_ > 0) {
    waited(StallReason::kChannel) += now - unsent_since_;
    add_wait(StallReason::kChannel, now - unsent_since_);
  }
  for (size_t i = 0; stall_times_ && i < kStallReasons; ++i) {
    const auto reason = static_cast<StallReason>(i);
    waited(reason) += stall_times_->over[i];
    if ((stalls_ & bit(reason)) == 0) continue;
    const Duration waits = now - stall_times_->since[i];
    if (reason != StallReason::kCredit) {
      waited(reason) += waits;
      add_wait(reason, waits);
      continue;
    }
    const Duration unread = unread_.until(now) - stall_times_->unread;
    waited(StallReason::kChannel) += unread;
    waited(reason) += waits - unread;
    add_wait(unread_.reading == Reading::kStopped ? StallReason::kChannel : reason, waits);
  }
  return view;
}

void StreamAccount::close(Fault fault) {
  if (std::exchange(closed_, true)) return;
  if (unsent_ > 0) left(unsent_);
  for (size_t i = 0; i < kStallReasons; ++i) unstall(static_cast<StallReason>(i));
  observers_.notify(&ChannelObserver::stream_closed, {stream_,
                                                      service_,
                                                      role_,
                                                      fault,
                                                      bytes_,
                                                      loop_.now() - opened_at_,
                                                      {client_.data(), client_size_}});
}

}  // namespace virtproxy
