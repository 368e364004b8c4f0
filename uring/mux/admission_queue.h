// Clients that have no stream yet.
//
//       came ──▶ new ──── the channel is up ──────▶ admitted
//                 │                                  ▲
//                 └─ the protocol is being chosen ──▶ held ── their time is over ──▶ refused
//
// A client is held for a limited time. It keeps the limit when it is put back because its stream
// came to nothing, so that a peer which changes the protocol again and again cannot hold it for
// ever.
//
// At most `most` clients are accepted. Those that are put back do not count towards that; there are
// at most as many of them as the channel has streams.
#pragma once

#include <cstddef>
#include <deque>
#include <map>
#include <optional>

#include "core/time.h"

namespace virtproxy {

class Opener;

struct WaitingClient {
  int number = -1;                      // the opener's name for it
  Opener* opener = nullptr;             // whose client it is
  std::optional<Instant> held_until{};  // of one that was ever held
};

class AdmissionQueue {
 public:
  explicit AdmissionQueue(size_t most) : most_(most) {}

  // False when it is full.
  bool push(const WaitingClient& client) {
    if (size() >= most_) return false;
    new_.push_back(client);
    return true;
  }

  // Takes back a client whose stream came to nothing. It keeps its limit, or is held until `limit`.
  void put_back(WaitingClient client, Instant limit) { hold(client, limit); }

  // Holds all new ones until `limit`.
  void hold_new(Instant limit) {
    for (; !new_.empty(); new_.pop_front()) hold(new_.front(), limit);
  }

  // The next client to be admitted: those that were held come first.
  std::optional<WaitingClient> take() {
    if (!held_.empty()) return take_first_held();
    if (new_.empty()) return std::nullopt;
    const WaitingClient client = new_.front();
    new_.pop_front();
    return client;
  }

  // A client whose limit is over.
  std::optional<WaitingClient> take_overdue(Instant now) {
    if (held_.empty() || held_.begin()->first > now) return std::nullopt;
    return take_first_held();
  }

  // The earliest limit.
  std::optional<Instant> deadline() const {
    if (held_.empty()) return std::nullopt;
    return held_.begin()->first;
  }

  size_t size() const { return new_.size() + held_.size(); }
  bool empty() const { return new_.empty() && held_.empty(); }

 private:
  void hold(WaitingClient client, Instant limit) {
    if (!client.held_until) client.held_until = limit;
    held_.emplace(*client.held_until, client);
  }
  WaitingClient take_first_held() {
    const WaitingClient client = held_.begin()->second;
    held_.erase(held_.begin());
    return client;
  }

  size_t most_;
  std::deque<WaitingClient> new_;
  std::multimap<Instant, WaitingClient> held_;  // by the end of their time
};

}  // namespace virtproxy
