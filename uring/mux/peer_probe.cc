#include "uring/mux/peer_probe.h"

#include <algorithm>

namespace virtproxy {

void PeerProbe::expired(Timer&) {
  const Instant now = loop_.now();
  Session& session = selector_.session();
  const bool out = counters_.credit_is_out();
  const bool silent = out && session.awaits_probe();
  counters_.note_reading(silent ? Reading::kStopped : Reading::kGoesOn, now);
  if (!out) return;
  // Where the answer is missing, it is looked for again soon: the wait is counted until then.
  if (silent) return timer_.set(now + kAnswer);
  if (now < probe_at_) return timer_.set(probe_at_);
  session.probe();
  wakeup_.wake();
  probe_at_ = now + kInterval;
  timer_.set(now + std::max(kAnswer, 2 * session.stats().round_trip));
}

}  // namespace virtproxy
