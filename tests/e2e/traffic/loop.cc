#include "loop.h"

#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include "net.h"

namespace virtproxy::traffic {

Loop::Loop() : now_(Clock::now()) {
  signal(SIGPIPE, SIG_IGN);
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (epoll_ < 0 || signals_ < 0) throw Failure("epoll or signalfd: " + ErrorText(errno));
  Add(signals_, EPOLLIN, nullptr);
}

Loop::~Loop() {
  close(signals_);
  close(epoll_);
}

void Loop::Add(int fd, uint32_t events, Watcher* watcher) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = watcher;
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) {
    throw Failure("epoll_ctl: " + ErrorText(errno));
  }
}

void Loop::Modify(int fd, uint32_t events, Watcher* watcher) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = watcher;
  if (epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event) != 0) {
    throw Failure("epoll_ctl: " + ErrorText(errno));
  }
}

void Loop::Remove(int fd) { epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr); }

void Loop::SetTimer(Watcher* watcher, TimePoint when) {
  ClearTimer(watcher);
  timer_of_[watcher] = when;
  timers_.emplace(when, watcher);
}

void Loop::ClearTimer(Watcher* watcher) {
  const auto found = timer_of_.find(watcher);
  if (found == timer_of_.end()) return;
  timers_.erase({found->second, watcher});
  timer_of_.erase(found);
}

void Loop::Retire(std::unique_ptr<Watcher> watcher) {
  ClearTimer(watcher.get());
  retired_.push_back(std::move(watcher));
}

int Loop::WaitMilliseconds() const {
  if (timers_.empty()) return -1;
  const auto left = timers_.begin()->first - Clock::now();
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return static_cast<int>(std::clamp<int64_t>(ms, 0, 1000));
}

void Loop::RunTimers() {
  while (!timers_.empty() && timers_.begin()->first <= now_) {
    Watcher* watcher = timers_.begin()->second;
    ClearTimer(watcher);
    watcher->OnTimer();
  }
}

void Loop::Run() {
  std::array<epoll_event, 256> events;
  while (!stopped_) {
    const int count =
        epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), WaitMilliseconds());
    if (count < 0 && errno != EINTR) throw Failure("epoll_wait: " + ErrorText(errno));
    now_ = Clock::now();
    for (int i = 0; i < count && !stopped_; ++i) {
      auto* watcher = static_cast<Watcher*>(events[static_cast<size_t>(i)].data.ptr);
      if (watcher == nullptr) {
        signalled_ = stopped_ = true;
      } else {
        watcher->OnEvents(events[static_cast<size_t>(i)].events);
      }
    }
    if (!stopped_) RunTimers();
    std::exchange(retired_, {}).clear();
  }
}

Acceptor::Acceptor(Loop* loop, int listener, std::function<void(int)> take)
    : loop_(loop), listener_(listener), take_(std::move(take)) {
  loop_->Add(listener_, EPOLLIN, this);
}

Acceptor::~Acceptor() {
  loop_->Remove(listener_);
  close(listener_);
}

void Acceptor::OnEvents(uint32_t) {
  for (int i = 0; i < 64; ++i) {
    const int fd = AcceptOne(listener_);
    if (fd < 0) return;
    take_(fd);
  }
}

}  // namespace virtproxy::traffic
