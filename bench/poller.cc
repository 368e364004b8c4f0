#include "poller.h"

#include <fmt/format.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <cstring>

#include "clock.h"
#include "failure.h"

namespace virtproxy::bench {
namespace {

void check(int status, const char* what) {
  if (status < 0) {
    throw Failure(Outcome::kConnectFailed, fmt::format("{}: {}", what, std::strerror(errno)));
  }
}

}  // namespace

Poller::Poller()
    : epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      events_(256) {
  check(epoll_.get(), "epoll_create1");
  check(wake_.get(), "eventfd");
  add(wake_.get(), nullptr, EPOLLIN | EPOLLET);
}

void Poller::add(int fd, void* owner, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = owner;
  check(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

void Poller::modify(int fd, void* owner, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = owner;
  check(::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event), "epoll_ctl");
}

std::span<const epoll_event> Poller::wait(int64_t timeout) {
  const int capacity = static_cast<int>(events_.size());
  int count = 0;
  if (timeout <= 0) {
    count = ::epoll_wait(epoll_.get(), events_.data(), capacity, timeout == 0 ? 0 : -1);
  } else {
    timespec ts{};
    ts.tv_sec = timeout / kSecond;
    ts.tv_nsec = timeout % kSecond;
    count = ::epoll_pwait2(epoll_.get(), events_.data(), capacity, &ts, nullptr);
  }
  return {events_.data(), static_cast<size_t>(count < 0 ? 0 : count)};
}

void Poller::wake() {
  const uint64_t one = 1;
  // A counter at its limit is a wake-up already.
  [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof(one));
}

}  // namespace virtproxy::bench
