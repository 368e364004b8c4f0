#include "uring/base/mailbox.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

namespace virtproxy {

Mailbox::Mailbox() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Mailbox::~Mailbox() { ::close(fd_); }

void Mailbox::post(Task task) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kClosed) return;
    tasks_.push_back(std::move(task));
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof one);
}

void Mailbox::run() {
  std::vector<Task> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (const Task& task : tasks) task();
}

void Mailbox::close() {
  std::vector<Task> tasks;  // Destroyed behind the lock: what they hold may post.
  const std::lock_guard lock(mutex_);
  state_ = State::kClosed;
  tasks.swap(tasks_);
}

}  // namespace virtproxy
