// Tasks that other threads leave for one thread, its owner, which runs them when it has time.
//
// The main thread asks a worker in this way, and the worker answers in the same way. A task is run
// once or, where the owner has ended, not at all.
#pragma once

#include <functional>
#include <mutex>
#include <vector>

namespace virtproxy {

class Mailbox {
 public:
  using Task = std::function<void()>;

  // Throws std::system_error when the process has no descriptor left.
  Mailbox();
  ~Mailbox();
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  // From any thread; never waits for the owner. Tasks of one thread run in the order of its calls.
  void post(Task task);

  // A non-blocking eventfd, readable while tasks wait. The owner reads its count, 8 bytes, before
  // it calls run().
  int fd() const { return fd_; }
  // In the owner's thread. Runs what was posted until now; what a task posts here waits for the
  // next call.
  void run();

 private:
  const int fd_;
  std::mutex mutex_;
  std::vector<Task> tasks_;  // guarded by mutex_
};

}  // namespace virtproxy
