#include "uring/mux/stream_account.h"

#include <utility>

namespace virtproxy {

void StreamAccount::begin_stall(StallReason reason) {
  stalls_ |= bit(reason);
  const Instant now = loop_.now();
  stalled_since_[static_cast<size_t>(reason)] = now;
  observers_.notify(&ChannelObserver::stream_stalled, {stream_, service_, reason, now});
}

void StreamAccount::end_stall(StallReason reason) {
  stalls_ &= static_cast<uint8_t>(~bit(reason));
  const Instant since = stalled_since_[static_cast<size_t>(reason)];
  observers_.notify(&ChannelObserver::stream_unstalled,
                    {stream_, service_, reason, since, loop_.now() - since});
}

StreamView StreamAccount::view() const {
  const Instant now = loop_.now();
  StreamView view{stream_, service_, role_, bytes_, now - opened_at_, std::nullopt};
  for (size_t i = 0; i < kStallReasons; ++i) {
    const auto reason = static_cast<StallReason>(i);
    const Duration waits = now - stalled_since_[i];
    if ((stalls_ & bit(reason)) == 0 || (view.waits_for && waits <= view.waits)) continue;
    view.waits_for = reason;
    view.waits = waits;
  }
  return view;
}

void StreamAccount::close(Fault fault) {
  if (std::exchange(closed_, true)) return;
  for (size_t i = 0; i < kStallReasons; ++i) unstall(static_cast<StallReason>(i));
  observers_.notify(&ChannelObserver::stream_closed,
                    {stream_, service_, role_, fault, bytes_, loop_.now() - opened_at_});
}

}  // namespace virtproxy
