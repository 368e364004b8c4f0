// Drives the Resolver from a loop: polls its sockets, keeps its timer, reports results to clients.
#pragma once

#include <memory>
#include <unordered_map>

#include "uring/io/loop.h"
#include "uring/net/resolver.h"

namespace virtproxy {

class ResolverDriver final : private Timer::Owner, private Loop::Deferred {
 public:
  class Client {
   public:
    // Not called from inside start().
    virtual void resolved(Resolver::Result result) = 0;

   protected:
    ~Client() = default;
  };

  explicit ResolverDriver(Loop& loop);
  ~ResolverDriver();

  Resolver::Id start(std::string_view host, uint16_t port, Client* client);
  // The client is not called any more.
  void cancel(Resolver::Id id);

 private:
  struct Watcher;

  void expired(Timer& timer) override;
  void run_deferred() override;
  void ready(uint64_t key, int result);
  void update_watches();
  void wake();

  Loop& loop_;
  Resolver resolver_;
  Timer timer_;
  std::unordered_map<Resolver::Id, Client*> clients_;
  std::unordered_map<uint64_t, std::unique_ptr<Watcher>> watchers_;
  std::vector<std::unique_ptr<Watcher>> leaving_;
  bool active_ = false;
};

}  // namespace virtproxy
