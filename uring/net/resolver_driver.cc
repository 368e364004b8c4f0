#include "uring/net/resolver_driver.h"

#include <poll.h>

#include <algorithm>

namespace virtproxy {

namespace {

// Thousands may wait for one name, and each begins to connect once it is found.
constexpr unsigned kResultsPerTurn = 16;

}  // namespace

struct ResolverDriver::Watcher final : Completion {
  Watcher(ResolverDriver& o, uint64_t k) : owner(o), key(k), op(this) {}
  void complete(Op&, Outcome outcome) override { owner.ready(key, outcome.result); }

  ResolverDriver& owner;
  uint64_t key;
  Op op;
  uint32_t events = 0;
};

ResolverDriver::ResolverDriver(Loop& loop) : loop_(loop), timer_(loop.timers(), this) {}

ResolverDriver::~ResolverDriver() = default;

Resolver::Id ResolverDriver::start(std::string_view host, uint16_t port, Client* client) {
  const Resolver::Id id = resolver_.start(host, port);
  clients_.emplace(id, client);
  wake();
  loop_.hurry();
  return id;
}

void ResolverDriver::cancel(Resolver::Id id) {
  resolver_.cancel(id);
  clients_.erase(id);
}

void ResolverDriver::expired(Timer&) {
  resolver_.process_timeouts();
  wake();
}

void ResolverDriver::ready(uint64_t key, int result) {
  const bool failed = result < 0 || (result & (POLLERR | POLLHUP)) != 0;
  if (result != -ECANCELED) {
    resolver_.process(key, failed || (result & POLLIN) != 0, failed || (result & POLLOUT) != 0);
  }
  wake();
}

void ResolverDriver::wake() {
  if (!active_) loop_.defer(this);
  active_ = true;
}

void ResolverDriver::run_deferred() {
  active_ = false;
  TurnBudget budget(loop_, kResultsPerTurn);
  while (auto done = resolver_.next()) {
    const auto client = clients_.find(done->id);
    if (client == clients_.end()) continue;
    Client* told = client->second;
    clients_.erase(client);
    told->resolved(std::move(done->result));
    budget.spend();
    if (!budget.left()) {
      wake();
      break;
    }
  }
  update_watches();
  if (const auto timeout = resolver_.timeout()) {
    timer_.set(loop_.now() + *timeout);
  } else {
    timer_.clear();
  }
}

void ResolverDriver::update_watches() {
  for (auto at = watchers_.begin(); at != watchers_.end();) {
    const auto& wanted = resolver_.watches();
    const bool kept = std::any_of(wanted.begin(), wanted.end(),
                                  [&](const Resolver::Watch& w) { return w.key == at->first; });
    if (kept) {
      ++at;
      continue;
    }
    loop_.driver().cancel(at->second->op);
    leaving_.push_back(std::move(at->second));
    at = watchers_.erase(at);
  }
  std::erase_if(leaving_, [](const auto& watcher) { return !watcher->op.pending; });
  for (const Resolver::Watch& watch : resolver_.watches()) {
    auto& watcher = watchers_[watch.key];
    if (!watcher) watcher = std::make_unique<Watcher>(*this, watch.key);
    const uint32_t events = (watch.read ? POLLIN : 0u) | (watch.write ? POLLOUT : 0u);
    if (watcher->op.pending) {
      // Its completion asks for what is wanted now.
      if (watcher->events != events) loop_.driver().cancel(watcher->op);
      continue;
    }
    watcher->events = events;
    loop_.driver().poll(watcher->op, {watch.fd, -1}, events);
  }
}

}  // namespace virtproxy
