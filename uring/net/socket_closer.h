// Closes the sockets of applications, at a bounded rate and in a bounded number.
//
//   close_with_reset()   resets some sockets each turn: a reset costs the kernel as much as a
//   message close_lingering()    reads on until the application has closed too (lingering_close.h);
//   at most
//                        kMostLingering at once, and any beyond those are closed at once
//
// Owns every descriptor that it was given, until it is closed. May be destroyed when idle().
#pragma once

#include <memory>
#include <vector>

#include "uring/io/loop.h"
#include "uring/net/lingering_close.h"

namespace virtproxy {

class SocketCloser final : private LingeringClose::Client, private Loop::Deferred {
 public:
  explicit SocketCloser(Loop& loop);
  ~SocketCloser();

  void close_with_reset(int fd);
  void close_lingering(int fd);
  // Closes the sockets that wait for their application.
  void end_lingering();
  // All descriptors are closed, and the kernel knows of none.
  bool idle() const { return fds_to_reset_.empty() && lingering_.empty(); }

 private:
  // Descriptors that a peer can make us hold although its streams are over.
  static constexpr size_t kMostLingering = 256;
  static constexpr unsigned kResetsPerTurn = 64;

  void lingering_closed() override { wakeup_.wake(); }
  void run_deferred() override;

  Loop& loop_;
  Wakeup wakeup_;
  std::vector<int> fds_to_reset_;
  Instant turn_{};  // the one that resets_in_turn_ is about
  unsigned resets_in_turn_ = 0;
  std::vector<std::unique_ptr<LingeringClose>> lingering_;
};

}  // namespace virtproxy
