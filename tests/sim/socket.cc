#include "tests/sim/socket.h"

#include <poll.h>

#include <algorithm>
#include <utility>

namespace virtproxy::sim {
namespace {

constexpr Duration kLateNews = milliseconds(50);

}  // namespace

Socket::~Socket() {
  for (const auto& waiting : backlog_) {
    // Connections nobody accepted: their clients hear a reset.
    waiting->send_reset();
    waiting->connected_ = false;
  }
  if (!connected_) return;
  const auto peer = peer_.lock();
  if (!peer) return;
  peer->peer_left_at = World::current().now();
  // Who waits for room may be told of it late.
  peer->left_full = !writable() || World::current().now() - room_since_ < kLateNews;
  if (family_ == Family::kUnix) {
    if (incoming_.size() > 0 && !World::current().canary_strikes(Canary::kLoseReset, 0.1)) {
      peer->error_ = ECONNRESET;
    }
    peer->end_arrived_ = peer->shut_for_writing_ = true;
    peer->changed();
  } else if (incoming_.size() > 0 || linger_) {
    send_reset();
  } else if (!shut_for_writing_) {
    send_end();
  }
}

template <typename What>
void Socket::arrive(Duration latency, uint32_t events, What what) {
  World& world = World::current();
  last_arrival_ = std::max({world.now() + latency, last_arrival_, frozen_until_});
  if (last_arrival_ <= world.now()) {
    what(*this);
    changed(events);
    return;
  }
  world.at(last_arrival_, [weak = weak_from_this(), events, what] {
    if (const auto self = weak.lock()) {
      what(*self);
      self->changed(events);
    }
  });
}

void Socket::connect_to(const std::shared_ptr<Socket>& listener, const Path& path) {
  auto served = std::make_shared<Socket>(family_);
  served->path_ = path_ = path;
  served->connected_ = connected_ = true;
  served->linger_ = listener->linger_;
  served->carries_channel = carries_channel = listener->carries_channel;
  served->spared = spared = path.spared;
  served->peer_ = weak_from_this();
  served->faulted = faulted;
  served->kept_waiting_at = kept_waiting_at;
  peer_ = served;
  connecting_ = false;
  listener->backlog_.push_back(std::move(served));
  listener->changed(POLLIN);
  changed();
}

void Socket::refuse(int error) {
  connecting_ = false;
  error_ = error;
  end_arrived_ = shut_for_writing_ = true;
  changed();
}

std::shared_ptr<Socket> Socket::accept() {
  if (backlog_.empty()) return nullptr;
  auto socket = std::move(backlog_.front());
  backlog_.pop_front();
  return socket;
}

void Socket::note_failed_accept() {
  for (const auto& waiting : backlog_) *waiting->kept_waiting_at = World::current().now();
}

int64_t Socket::read(std::span<std::byte> to) {
  World& world = World::current();
  if (arrived_ == 0) {
    if (error_ != 0) return -std::exchange(error_, 0);
    if (end_arrived_ || shut_for_reading_) return 0;
    return connected_ ? -EAGAIN : -ENOTCONN;
  }
  size_t count = std::min(to.size(), arrived_);
  const size_t there = count;
  if (count > 1 && world.happens(Mishap::kShortRead, carries_channel)) {
    count = world.random().between(1, count - 1);
  }
  const auto from = incoming_.contents();
  const auto peer = peer_.lock();
  const bool was_full = peer && !peer->writable();
  if (!carries_channel && count > 1 && world.canary_strikes(Canary::kSwapBytes, 0.01)) {
    std::swap(from[0], from[1]);
  }
  std::copy_n(from.begin(), count, to.begin());
  incoming_.consume(count);
  arrived_ -= count;
  ++reads;
  // A short read takes all there is. What it left came right behind it.
  if (count < there) changed(POLLIN);
  if (was_full && peer->writable()) peer->room_since_ = world.now();
  // TCP wakes a writer that has found no room, once; a unix socket at each read.
  const bool wakes = peer && peer->writable() && (was_full || family_ == Family::kUnix);
  if (peer) peer->changed(wakes ? uint32_t{POLLOUT} : 0u);
  return static_cast<int64_t>(count);
}

size_t Socket::room() const {
  const auto peer = peer_.lock();
  if (!peer) return path_.capacity;
  const size_t used = peer->incoming_.size();
  return path_.capacity > used ? path_.capacity - used : 0;
}

int64_t Socket::write(std::span<const std::byte> from) {
  World& world = World::current();
  if (!connected_) return error_ != 0 ? -std::exchange(error_, 0) : -ENOTCONN;
  if (error_ != 0 && family_ == Family::kTcp) return -std::exchange(error_, 0);
  if (shut_for_writing_) return -EPIPE;
  const auto peer = peer_.lock();
  if (!peer) {
    if (family_ == Family::kUnix) return -EPIPE;
    // The other machine answers bytes for nobody with a reset.
    arrive(2 * path_.latency, kAllEvents, [](Socket& self) { self.on_reset(); });
    return static_cast<int64_t>(from.size());
  }
  if (peer->shut_for_reading_ && family_ == Family::kUnix) return -EPIPE;
  size_t count = std::min(from.size(), room());
  if (count == 0) return -EAGAIN;
  if (count > 1 && world.happens(Mishap::kShortWrite, carries_channel)) {
    count = world.random().between(1, count - 1);
  }
  auto carried = from.first(count);
  // The first of several, so that the others are in the wrong place.
  if (!carries_channel && count > 1 && world.canary_strikes(Canary::kDropByte, 0.01)) {
    carried = carried.subspan(1);
  }
  peer->incoming_.append(carried);
  Duration way = path_.latency;
  if (path_.bytes_per_nanosecond > 0) {
    const auto time = Duration(
        static_cast<Duration::rep>(static_cast<double>(count) / path_.bytes_per_nanosecond));
    way = std::max(way, peer->last_arrival_ - world.now() + time);
  }
  peer->arrive(way, POLLIN, [size = carried.size()](Socket& self) {
    // Less may be there when the connection was torn meanwhile.
    self.arrived_ = std::min(self.arrived_ + size, self.incoming_.size());
  });
  return static_cast<int64_t>(count);
}

uint32_t Socket::poll() const {
  if (listening_) return backlog_.empty() ? 0 : POLLIN;
  if (connecting_) return 0;
  uint32_t events = 0;
  if (error_ != 0) events |= POLLERR | POLLIN;
  if (end_arrived_ || shut_for_reading_) events |= POLLIN | POLLRDHUP;
  const bool over = shut_for_writing_ || (family_ == Family::kUnix && peer_.expired());
  if (end_arrived_ && over) events |= POLLHUP;
  if (!connected_ && error_ == 0) events |= POLLHUP;
  if (arrived_ > 0) events |= POLLIN;
  if (error_ != 0 || over || writable()) events |= POLLOUT;
  return events;
}

size_t Socket::under_way() const {
  const auto peer = peer_.lock();
  if (!peer) return 0;
  return peer->incoming_.size() - (family_ == Family::kTcp ? peer->arrived_ : 0);
}

bool Socket::writable() const {
  const size_t free = room();
  return free >= path_.capacity / 3 || free >= 4096;
}

int Socket::shutdown(bool reading, bool writing) {
  if (!connected_) return ENOTCONN;
  if (reading) {
    shut_for_reading_ = true;
    if (const auto peer = peer_.lock()) peer->changed();
  }
  if (writing && !shut_for_writing_) {
    if (family_ == Family::kTcp && reset_) return ENOTCONN;
    shut_for_writing_ = true;
    send_end();
  }
  changed();
  return 0;
}

int Socket::take_error() { return std::exchange(error_, 0); }

void Socket::send_end() {
  const auto peer = peer_.lock();
  if (!peer) return;
  peer->arrive(path_.latency, kAllEvents,
               [](Socket& self) { self.end_arrived_ |= !self.end_lost_; });
}

void Socket::send_reset() {
  const auto peer = peer_.lock();
  if (!peer) return;
  World& world = World::current();
  if (world.canary_strikes(Canary::kLoseReset, 0.1)) return send_end();
  const size_t under_way = peer->incoming_.size() - peer->arrived_;
  if (under_way > 0) {
    const size_t kept = world.random().between(0, under_way);
    peer->incoming_.truncate(peer->arrived_ + kept);
    *taken_back += under_way - kept;
    // What came after the bytes that were lost is lost, too.
    peer->end_lost_ = kept < under_way;
  }
  peer->reset_under_way_ = true;
  peer->arrive(path_.latency, kAllEvents, [](Socket& self) { self.on_reset(); });
}

void Socket::hasten_reset() {
  arrived_ = incoming_.size();
  on_reset();
  changed();
}

void Socket::on_reset() {
  if (reset_) return;
  reset_ = true;
  error_ = end_arrived_ && family_ == Family::kTcp ? EPIPE : ECONNRESET;
  end_arrived_ = shut_for_writing_ = true;
}

void Socket::cut(bool torn) {
  const auto peer = peer_.lock();
  World& world = World::current();
  for (Socket* side : {this, peer.get()}) {
    if (side == nullptr) continue;
    const size_t under_way = side->incoming_.size() - side->arrived_;
    if (torn) {
      // Bytes that were there to be read count as under way too: the machine in between had them.
      const size_t left = world.random().between(0, side->incoming_.size());
      side->incoming_.truncate(left);
      side->arrived_ = std::min(side->arrived_, left);
    } else if (under_way > 0) {
      side->arrived_ = side->incoming_.size();
    }
    if (world.random().chance(0.5)) {
      side->end_arrived_ = side->shut_for_writing_ = true;
    } else {
      side->on_reset();
    }
  }
  peer_.reset();
  if (peer) peer->peer_.reset();
  changed();
  if (peer) peer->changed();
}

void Socket::freeze(Instant until) {
  frozen_until_ = std::max(frozen_until_, until);
  if (const auto peer = peer_.lock()) peer->frozen_until_ = std::max(peer->frozen_until_, until);
}

std::optional<int> injected_driver_error(File& file, bool receives) {
  if (file.spared) return std::nullopt;
  if (!file.carries_channel && World::current().happens(Mishap::kNoMemory)) {
    if (!receives) return -ENOBUFS;
    if (auto* socket = dynamic_cast<Socket*>(&file)) *socket->faulted = true;
    return -ENOMEM;
  }
  return injected_error(file, receives);
}

std::optional<int> injected_error(File& file, bool receives) {
  World& world = World::current();
  if (file.carries_channel) {
    if (receives && world.happens(Mishap::kInterrupted)) return -EINTR;
    if (world.canary_strikes(Canary::kEndSession, 0.001)) return -EIO;
    if (!world.happens(Mishap::kChannelError, file.carries_channel)) return std::nullopt;
    world.channel(file.carries_channel).disturb(world.now());
    return world.random().chance(0.5) ? -ECONNRESET : -EIO;
  }
  if (world.happens(Mishap::kInterrupted)) {
    return receives && world.random().chance(0.5) ? -EAGAIN : -EINTR;
  }
  if (world.canary_strikes(Canary::kResetStream, 0.001)) {
    return receives ? -ETIMEDOUT : -EHOSTUNREACH;
  }
  if (!world.happens(receives ? Mishap::kReceiveError : Mishap::kSendError)) return std::nullopt;
  if (auto* socket = dynamic_cast<Socket*>(&file)) *socket->faulted = true;
  return receives ? -ETIMEDOUT : -EHOSTUNREACH;
}

}  // namespace virtproxy::sim
