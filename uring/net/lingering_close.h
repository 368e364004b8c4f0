// Closes a socket whose application was sent the end and may still be sending. That happens where
// the end of one direction is the end of both, as in version 1.
//
// TCP answers bytes that arrive for a closed socket with a reset, which makes the application's
// kernel drop what the application has not read yet. So what arrives is read and dropped, until the
// application has closed too, or for kLongest.
#pragma once

#include <chrono>

#include "uring/io/loop.h"

namespace virtproxy {

class LingeringClose final : private Completion, private Timer::Owner {
 public:
  static constexpr Duration kLongest = std::chrono::seconds(2);

  class Client {
   public:
    // It has become idle, perhaps.
    virtual void lingering_closed() = 0;

   protected:
    ~Client() = default;
  };

  // Owns the descriptor.
  LingeringClose(Loop& loop, int fd, Client* client);
  ~LingeringClose();

  void end();
  bool idle() const { return fd_ < 0 && !poll_.pending; }

 private:
  void complete(Op& op, Outcome outcome) override;
  void expired(Timer&) override { end(); }
  void listen();

  Loop& loop_;
  Client* client_;
  int fd_;
  Op poll_;
  Timer timer_;
};

}  // namespace virtproxy
