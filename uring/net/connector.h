// Connects to an address: one attempt after another, until one succeeds or the time is over.
//
// Host names are looked up first. connect(2) is called directly on a non-blocking socket, because
// through the ring a unix socket with a full backlog would occupy a kernel worker until it is
// accepted. A full backlog is tried again with backoff; a connection in progress is polled. So a
// service that does not answer costs one descriptor and one timer, and delays no other.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/fault.h"
#include "uring/io/loop.h"
#include "uring/net/address.h"
#include "uring/net/resolver_driver.h"

namespace virtproxy {

// Of an attempt to reach the other end of a channel, or a program that takes lines.
inline constexpr Duration kConnectTimeout = std::chrono::seconds(10);

class Connector final : private Completion, private Timer::Owner, private ResolverDriver::Client {
 public:
  class Client {
   public:
    // `fd` is connected and non-blocking; the client owns it now.
    virtual void connected(int fd) = 0;
    virtual void connect_failed(Fault fault, const std::string& reason) = 0;
    // A connector that was cancelled has become idle.
    virtual void connector_settled() {}

   protected:
    ~Client() = default;
  };

  Connector(Loop& loop, ResolverDriver& resolver_driver, Client* client);
  ~Connector();

  // Calls the client before `timeout` is over, and never from inside start().
  void start(const Address& address, Duration timeout);
  // Right after start(): the descriptor if it is connected already, and connected() is not called
  // then; else -1.
  int take();
  // The client is not called any more.
  void cancel();
  // The object may be destroyed: nothing of it is known to the kernel.
  bool idle() const { return !poll_.pending; }
  bool running() const { return state_ != State::kIdle; }

 private:
  enum class State : uint8_t {
    kIdle,
    kResolving,    // lookup_ runs
    kBacklogFull,  // retry_ leads to the next attempt at the same address
    kInProgress,   // poll_ or retry_ ends the attempt
    kConnected,    // fd_ is; the client is told in the next turn, unless it takes it before
    kFailed,       // no address is left; the client is told in the next turn
  };

  void complete(Op& op, Outcome outcome) override;
  void expired(Timer& timer) override;
  void resolved(Resolver::Result result) override;

  void try_next();
  void attempt();
  void await_connection();
  void attempt_failed(int error);
  // For people: what the last attempt met, or what was still waited for.
  std::string reason_of_failure() const;
  void conclude();
  void close_socket();

  Loop& loop_;
  ResolverDriver& resolver_driver_;
  Client* client_;
  Op poll_;
  Timer deadline_;  // of all attempts together
  Timer retry_;     // full backlog, or the end of this attempt's share of time
  State state_ = State::kIdle;
  std::optional<Resolver::Id> lookup_;
  std::vector<SocketAddress> addresses_;
  size_t next_address_ = 0;
  int fd_ = -1;
  unsigned attempt_ = 0;  // counts sockets, so that a late completion is known for what it is
  unsigned polled_ = 0;   // the attempt that poll_ is about
  Duration backoff_{};
  Duration share_{};
  int last_error_ = 0;
  std::string reason_;
};

}  // namespace virtproxy
