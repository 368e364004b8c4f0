// The connection of a sink to a program that takes lines: made, kept, and made again with back-off.
// What is queued and not sent when it is lost is dropped: its owner knows what was not
// acknowledged.
//
//   kDown ─ start() ▶ kConnecting ──▶ kUp ─── reset() ─────────▶ kClosing ──▶ kDown, a timer
//                                      └─ give_up() ▶ kBroken ──────▲
//
// A peer that breaks off may have acknowledged much before, which lies in the socket unread. What
// is there is received in kBroken, so that it is not sent again.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "uring/io/loop.h"
#include "uring/net/connector.h"
#include "uring/net/resolver_driver.h"

namespace virtproxy {

class SinkLink final : private Completion, private Connector::Client, private Timer::Owner {
 public:
  class Client {
   public:
    virtual void link_up() = 0;
    virtual void link_received(std::string_view bytes) = 0;
    // All that was queued has been sent.
    virtual void link_sent() = 0;
    virtual void link_down() = 0;

   protected:
    ~Client() = default;
  };

  // `name` is how the log calls the sink.
  SinkLink(Loop& loop, ResolverDriver& resolver, const Address& address, std::string name,
           Client* client);

  void start();
  bool up() const { return state_ == State::kUp; }
  // What is received is of use.
  bool receives() const { return state_ == State::kUp || state_ == State::kBroken; }
  int fd() const { return fd_; }
  // While up: appends to what is sent by the next flush().
  std::string& out() { return out_; }
  void flush();
  // Bytes that were queued and not sent yet.
  size_t unsent() const { return out_.size() + sending_.size() - sent_; }
  // The peer broke its protocol, or refuses: the connection is made anew after the back-off.
  void reset(const std::string& reason);
  // The same, but what the peer has sent by now is received first.
  void give_up(const std::string& reason);
  // It works: the next back-off is the shortest one.
  void works() { backoff_ = Duration::zero(); }
  void stop();
  bool idle() const;

 private:
  enum class State : uint8_t {
    kDown,
    kConnecting,
    kUp,
    kBroken,  // nothing is sent any more; what has arrived is received
    kClosing,
    kStopped
  };

  void complete(Op& op, Outcome outcome) override;
  void expired(Timer& timer) override;
  void connected(int fd) override;
  void connect_failed(Fault fault, const std::string& reason) override;
  void await(Op& op, uint32_t events);
  void received(int result);
  void receive_rest();
  void send();
  void sent(int result);
  void settle();
  void retry_later();

  Loop& loop_;
  const Address address_;
  const std::string name_;
  Client* client_;
  Connector connector_;
  Timer timer_;  // until the next attempt: to connect, or while up, to send
  Op receive_op_;
  Op send_op_;
  // Each operation waits for its socket, or has been given to it: the socket does not block.
  bool receive_waits_ = false;
  bool send_waits_ = false;
  State state_ = State::kDown;
  int fd_ = -1;
  Duration backoff_{};
  Duration pause_{};       // before a send that found no memory is tried again
  std::string broken_by_;  // in kBroken: why
  std::string reported_;   // the reason that the log has, so that it has it once
  std::string out_;
  std::string sending_;
  size_t sent_ = 0;  // bytes of sending_
  std::array<char, 16384> input_;
};

}  // namespace virtproxy
