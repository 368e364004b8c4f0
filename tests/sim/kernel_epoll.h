// The kernel's side of epoll(7), and the timer that a process waits for with it.
//
// It keeps the promises of fs/eventpoll.c that the epoll driver relies on and no others. An
// interest belongs to an open file and to the number by which it was added; it goes when the file
// is released, which may be later than its number is closed. A wake-up that names one of its events
// puts it into the queue, and wait() reports what its file has then, and nothing it does not have.
// One with EPOLLET leaves the queue meanwhile: what is there and was reported once need not be
// reported again before the next wake-up, but may be. To add or modify an interest asks its file at
// once. A wake-up may be late.
#pragma once

#include <sys/epoll.h>

#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "tests/sim/file.h"

namespace virtproxy::sim {

class KernelEpoll final : public File {
 public:
  KernelEpoll();
  ~KernelEpoll() override;

  // What epoll_ctl(2) and epoll_wait(2) return; a negative errno.
  int control(int what, int fd, const FileRef& file, const epoll_event* event);
  // Where the process would sleep, it notes that and returns.
  int wait(std::span<epoll_event> to, int timeout);

  uint32_t poll() const override { return something_to_report() ? uint32_t{EPOLLIN} : 0u; }
  // Whether a wait would return now.
  bool ready() const { return !asleep_ || something_to_report(); }
  // The process runs, for a reason that epoll does not know.
  void resume() { asleep_ = false; }

  // Of a process that was killed: who waits for a file is told that it is gone.
  void kill();

 private:
  class Interest;

  bool something_to_report() const;
  void enqueue(const std::shared_ptr<Interest>& interest);
  std::optional<epoll_event> report(const std::shared_ptr<Interest>& interest);

  std::vector<std::shared_ptr<Interest>> interests_;  // in the order in which they were added
  std::deque<std::weak_ptr<Interest>> queue_;
  std::vector<epoll_event> last_events_;  // of files that a killed process had
  bool asleep_ = false;
  std::shared_ptr<int> alive_ = std::make_shared<int>();
};

// A timerfd on the monotonic clock.
class KernelTimer final : public File, public std::enable_shared_from_this<KernelTimer> {
 public:
  KernelTimer() { of_driver = true; }

  // Nothing: it is disarmed.
  void set(std::optional<Instant> at);
  uint32_t poll() const override { return expired_ ? uint32_t{EPOLLIN} : 0u; }

 private:
  uint64_t set_ = 0;  // how often
  bool expired_ = false;
};

}  // namespace virtproxy::sim
