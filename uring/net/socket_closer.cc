#include "uring/net/socket_closer.h"

#include <unistd.h>

#include <algorithm>

#include "core/assert.h"
#include "uring/net/sockets.h"

namespace virtproxy {

SocketCloser::SocketCloser(Loop& loop)
    : loop_(loop), wakeup_(loop, static_cast<Loop::Deferred*>(this)) {}

SocketCloser::~SocketCloser() { VP_ASSERT(idle()); }

void SocketCloser::close_with_reset(int fd) {
  if (turn_ != loop_.now()) {
    turn_ = loop_.now();
    resets_in_turn_ = 0;
  }
  if (resets_in_turn_ < kResetsPerTurn) {
    ++resets_in_turn_;
    virtproxy::close_with_reset(fd);
  } else {
    fds_to_reset_.push_back(fd);
    wakeup_.wake();
  }
}

void SocketCloser::close_lingering(int fd) {
  LingeringClose::Client* const client = this;
  if (lingering_.size() < kMostLingering) {
    lingering_.push_back(std::make_unique<LingeringClose>(loop_, fd, client));
  } else {
    close(fd);
  }
}

void SocketCloser::end_lingering() {
  for (const auto& lingering : lingering_) lingering->end();
}

void SocketCloser::run_deferred() {
  wakeup_.begin();
  std::erase_if(lingering_, [](const auto& lingering) { return lingering->idle(); });
  // Those for which this turn has no place stay in the list.
  for (size_t left = std::min<size_t>(fds_to_reset_.size(), kResetsPerTurn); left > 0; --left) {
    const int fd = fds_to_reset_.back();
    fds_to_reset_.pop_back();
    close_with_reset(fd);
  }
  if (!fds_to_reset_.empty()) wakeup_.wake();
}

}  // namespace virtproxy
