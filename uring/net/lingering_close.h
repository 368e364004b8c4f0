// The last of a socket whose application was told the end and may still be speaking. That happens
// where the end of one direction is the end of both, as in version 1.
//
// TCP answers bytes that nobody will read with a reset, and a reset makes the application's kernel
// throw away what it has not read: the last words would be lost. So what still comes is read and
// thrown away, until the application has closed too, or for kLongest.
#pragma once

#include <chrono>

#include "uring/io/loop.h"

namespace virtproxy {

class Channel;

class Farewell final : private Completion, private Timer::Owner {
 public:
  static constexpr Duration kLongest = std::chrono::seconds(2);

  // Owns the descriptor.
  Farewell(Channel& channel, int fd);
  ~Farewell();

  void end();
  bool idle() const { return fd_ < 0 && !poll_.pending; }

 private:
  void complete(Op& op, int result, uint32_t flags) override;
  void expired(Timer&) override { end(); }
  void listen();

  Channel& channel_;
  int fd_;
  Op poll_;
  Timer timer_;
};

}  // namespace virtproxy
