#include "uring/transport/candidates.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "uring/net/sockets.h"

namespace virtproxy {
namespace {

using std::chrono::milliseconds;

constexpr Duration kRest = milliseconds(50);
constexpr Duration kCandidateRetry = milliseconds(250);
// A peer that is restarted may connect before the end of its last connection is noticed.
constexpr Duration kNamedAfter = milliseconds(500);
// A peer that is not on the list tries again for ever, see ReconnectBackoff.
constexpr RepeatRule kNotAllowed{3, std::chrono::minutes(1)};

}  // namespace

Candidates::Candidates(Loop& loop, const ChannelSpec& spec, const Acl& peers, Client* client)
    : loop_(loop),
      spec_(spec),
      peers_(peers),
      client_(client),
      arrival_(this),
      rest_(loop.timers(), this),
      naming_(loop.timers(), this),
      not_allowed_(
          loop, kNotAllowed, [this](const std::string& peer, uint64_t count, Counted counted) {
            log_facts(LogLevel::kWarn, {.peer = peer, .reason = "not_allowed"},
                      "channel {}: peer refused: {} is not on the list (--channel-allow-…){}",
                      spec_.name, peer, and_counted(count, counted));
            // Those that are told at the stop are for the log alone.
            if (listener_ >= 0) client_->peer_refused(peer, "is not on the list");
          }) {}

Candidates::~Candidates() { stop(); }

void Candidates::start(int listener) {
  listener_ = listener;
  spare_.hold();
}

void Candidates::resume() {
  paused_ = false;
  listen();
}

void Candidates::listen() {
  if (listener_ < 0 || paused_ || arrival_.pending || rest_.armed()) return;
  loop_.driver().poll(arrival_, {listener_, -1}, POLLIN);
}

// accept4(2) is called directly, and only when a connection is there, so that no other thread can
// take the reserved descriptor in between: an accept through the ring wants a descriptor before it
// waits.
void Candidates::complete(Op&, Outcome outcome) {
  const int result = outcome.result;
  if (listener_ < 0 || paused_) return;
  if (result == -ECANCELED || result == -EINTR) return listen();
  if (result < 0) return failed(std::string("poll: ") + std::strerror(-result));
  spare_.release();
  const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  const int error = errno;
  spare_.hold();
  if (fd >= 0) {
    // While there is no peer, the TransportSource decides how often one is taken.
    if (client_->present_peer() && ++in_a_row_ >= kMost) {
      in_a_row_ = 0;
      rest_.set(loop_.now() + kRest);
    }
    arrived(fd);
  } else if (error != EINTR && error != EAGAIN && error != ECONNABORTED) {
    return failed(std::string("accept: ") + std::strerror(error));
  }
  listen();
}

void Candidates::failed(const std::string& reason) {
  rest_.set(loop_.now() + kCandidateRetry);
  client_->accept_failed(reason);
}

void Candidates::arrived(int fd) {
  const PeerIdentity identity = peer_identity_of(fd);
  if (!peers_.admits(fd, identity)) {
    hang_up(fd);
    client_->peer_closed();
    not_allowed_.report(describe_party(identity), [&] { return describe(identity); });
    return;
  }
  if (!make_room(identity)) return hang_up(fd);
  // The keep-alive of a connection that waits ends it when its machine is gone.
  if (spec_.address.kind == Address::Kind::kTcp) prepare_tcp(fd);
  waiting_.push_back(std::make_unique<Candidate>(*this, fd, identity, loop_.now()));
  watch(*waiting_.back());
  if (!naming_.armed()) naming_.set(loop_.now() + kNamedAfter);
  client_->candidate_came();
}

// False if the newcomer has to go: all others have sent something.
bool Candidates::make_room(const PeerIdentity& newcomer) {
  if (waiting_.size() < kMost) return true;
  const auto silent = std::find_if(waiting_.begin(), waiting_.end(),
                                   [](const auto& candidate) { return !candidate->spoke; });
  const bool found = silent != waiting_.end();
  const PeerIdentity refused = found ? (*silent)->identity : newcomer;
  if (found) {
    hang_up(std::exchange((*silent)->fd, -1));
    remove(**silent);
  }
  client_->peer_closed();
  if (const auto hidden = refusals_.allow(loop_.now())) {
    const auto present = client_->present_peer();
    const std::string peer = describe(refused);
    const std::string reason = fmt::format("has come while {} is connected, and {} others wait",
                                           present ? describe(*present) : "another one", kMost);
    log_facts(LogLevel::kWarn, {.peer = peer, .reason = "too_many"},
              "channel {}: peer refused: {} {}{}", spec_.name, peer, reason, and_others(*hidden));
    client_->peer_refused(peer, reason);
  }
  return found;
}

void Candidates::watch(Candidate& candidate) {
  // Of one that has sent something, only its end is of interest.
  const uint32_t events = candidate.spoke ? POLLRDHUP : POLLIN | POLLRDHUP;
  loop_.driver().poll(candidate.poll, {candidate.fd, -1}, events);
}

void Candidates::polled(Candidate& candidate, int result) {
  if (candidate.fd < 0) {
    std::erase_if(leaving_, [&](const auto& left) { return left.get() == &candidate; });
    return;
  }
  if (result == -ECANCELED || result == -EINTR) return watch(candidate);
  constexpr int kGone = POLLRDHUP | POLLHUP | POLLERR;
  if (result < 0 || (result & kGone) != 0) {
    hang_up(std::exchange(candidate.fd, -1));
    return remove(candidate);
  }
  candidate.spoke = true;
  watch(candidate);
  client_->candidate_came();
}

// One whose descriptor is given away or closed. The kernel may still know its poll.
void Candidates::remove(const Candidate& candidate) {
  const auto found = std::find_if(waiting_.begin(), waiting_.end(),
                                  [&](const auto& waiting) { return waiting.get() == &candidate; });
  std::unique_ptr<Candidate> removed = std::move(*found);
  waiting_.erase(found);
  if (!removed->poll.pending) return;
  loop_.driver().cancel(removed->poll);
  leaving_.push_back(std::move(removed));
}

// shutdown(2) comes first because the other side does not notice close(2) while a poll holds the
// file.
void Candidates::hang_up(int fd) {
  shutdown(fd, SHUT_RDWR);
  if (listener_ >= 0) {
    spare_.close_into(fd);
  } else {
    close(fd);
  }
}

std::optional<Candidates::Taken> Candidates::take(SpareDescriptor& spare) {
  if (waiting_.empty()) return std::nullopt;
  const auto spoke = std::find_if(waiting_.begin(), waiting_.end(),
                                  [](const auto& candidate) { return candidate->spoke; });
  Candidate& chosen = spoke != waiting_.end() ? **spoke : *waiting_.front();
  const Taken taken{std::exchange(chosen.fd, -1), chosen.identity};
  remove(chosen);
  spare_.take_over(spare);
  return taken;
}

std::optional<PeerIdentity> Candidates::first_that_spoke() const {
  for (const auto& candidate : waiting_) {
    if (candidate->spoke) return candidate->identity;
  }
  return std::nullopt;
}

void Candidates::expired(Timer& timer) {
  if (&timer == &naming_) {
    name_those_that_wait();
  } else {
    listen();
  }
}

void Candidates::name_those_that_wait() {
  const auto present = client_->present_peer();
  for (const auto& candidate : waiting_) {
    if (candidate->named) continue;
    if (candidate->since + kNamedAfter > loop_.now()) {
      naming_.set(candidate->since + kNamedAfter);
      return;
    }
    candidate->named = true;
    const auto hidden = present ? seconds_.allow(loop_.now()) : std::nullopt;
    if (!hidden) continue;
    log_warn(
        "channel {}: a second peer waits: {} has come while {} is connected; it has its turn when "
        "that one is gone{}",
        spec_.name, describe(candidate->identity), describe(*present), and_others(*hidden));
  }
}

void Candidates::stop() {
  rest_.clear();
  naming_.clear();
  if (listener_ >= 0) {
    loop_.driver().cancel(arrival_);
    close(std::exchange(listener_, -1));
  }
  not_allowed_.flush();
  while (!waiting_.empty()) {
    Candidate& last = *waiting_.back();
    hang_up(std::exchange(last.fd, -1));
    remove(last);
  }
  spare_.release();
}

}  // namespace virtproxy
