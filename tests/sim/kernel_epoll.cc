#include "tests/sim/kernel_epoll.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace virtproxy::sim {
namespace {

constexpr uint32_t kAlways = EPOLLERR | EPOLLHUP;
constexpr uint32_t kKnown = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
constexpr uint64_t kLeastLate = 1'000;  // nanoseconds
constexpr uint64_t kMostLate = 20'000'000;

}  // namespace

class KernelEpoll::Interest final : public File::Waiter,
                                    public std::enable_shared_from_this<Interest> {
 public:
  Interest(KernelEpoll& epoll, int number, const FileRef& of)
      : fd(number), file(of), epoll_(epoll) {
    of->add_waiter(this);
  }
  ~Interest() {
    if (const auto held = file.lock()) held->remove_waiter(this);
  }

  void file_changed() override { woken(UINT32_MAX); }
  void woken(uint32_t names) override {
    World& world = World::current();
    if ((names & wanted()) == 0 || queued) return;
    if (world.canary_strikes(Canary::kLoseEdge, 0.01)) return;
    if (!world.happens(Mishap::kLateCompletion)) return epoll_.enqueue(shared_from_this());
    world.after(
        Duration(static_cast<Duration::rep>(world.random().magnitude(kLeastLate, kMostLate))),
        [epoll = &epoll_, alive = std::weak_ptr(epoll_.alive_), weak = weak_from_this()] {
          const auto self = weak.lock();
          if (!alive.expired() && self) epoll->enqueue(self);
        });
  }

  uint32_t wanted() const { return (event.events & (EPOLLIN | EPOLLOUT | EPOLLRDHUP)) | kAlways; }
  // What there is of it.
  uint32_t there() const {
    const auto held = file.lock();
    return held ? held->poll() & wanted() : 0;
  }

  const int fd;
  const std::weak_ptr<File> file;
  epoll_event event{};
  bool queued = false;

 private:
  KernelEpoll& epoll_;
};

KernelEpoll::KernelEpoll() { of_driver = true; }
KernelEpoll::~KernelEpoll() = default;

void KernelEpoll::enqueue(const std::shared_ptr<Interest>& interest) {
  if (std::exchange(interest->queued, true)) return;
  queue_.push_back(interest);
}

bool KernelEpoll::something_to_report() const {
  return !last_events_.empty() || std::any_of(queue_.begin(), queue_.end(), [](const auto& queued) {
    const auto interest = queued.lock();
    return interest && interest->there() != 0;
  });
}

int KernelEpoll::control(int what, int fd, const FileRef& file, const epoll_event* event) {
  const auto found = std::find_if(interests_.begin(), interests_.end(), [&](const auto& known) {
    return known->fd == fd && known->file.lock() == file;
  });
  const bool known = found != interests_.end();
  if (known == (what == EPOLL_CTL_ADD)) return known ? -EEXIST : -ENOENT;
  if (what == EPOLL_CTL_DEL) {
    interests_.erase(found);
    return 0;
  }
  if ((event->events & ~kKnown) != 0) {
    World::current().fail("epoll", "an event that the simulated kernel does not know");
  }
  const auto interest = known ? *found : std::make_shared<Interest>(*this, fd, file);
  if (!known) interests_.push_back(interest);
  interest->event = *event;
  if (interest->there() != 0) enqueue(interest);
  return 0;
}

// Nothing where its file has nothing any more.
std::optional<epoll_event> KernelEpoll::report(const std::shared_ptr<Interest>& interest) {
  World& world = World::current();
  const uint32_t events = interest->there();
  if (events == 0) return std::nullopt;
  if (world.canary_strikes(Canary::kForgetInterest, 0.01)) {
    std::erase(interests_, interest);
    return std::nullopt;
  }
  if ((interest->event.events & EPOLLET) == 0) enqueue(interest);
  world.trace("event", interest->fd, events);
  epoll_event reported = interest->event;
  reported.events = events;
  return reported;
}

int KernelEpoll::wait(std::span<epoll_event> to, int timeout) {
  World& world = World::current();
  if (world.happens(Mishap::kInterrupted)) return -EINTR;
  std::erase_if(interests_, [](const auto& known) { return known->file.expired(); });
  size_t count = 0;
  for (; count < to.size() && !last_events_.empty(); last_events_.pop_back()) {
    to[count++] = last_events_.back();
  }
  for (size_t left = queue_.size(); left > 0 && count < to.size(); --left) {
    const auto interest = queue_.front().lock();
    queue_.pop_front();
    if (!interest) continue;
    interest->queued = false;
    if (const auto event = report(interest)) to[count++] = *event;
  }
  if (count < to.size() && !interests_.empty() && world.happens(Mishap::kSpuriousWake)) {
    const auto& interest = world.random().pick(interests_);
    epoll_event again = interest->event;
    again.events = interest->there();
    if (again.events != 0) to[count++] = again;
  }
  if (count > 1 && world.canary_strikes(Canary::kSwapEvents, 0.1)) {
    const epoll_data_t first = to[0].data;
    to[0].data = to[count - 1].data;
    to[count - 1].data = first;
  }
  asleep_ = count == 0 && timeout != 0;
  if (asleep_ && timeout > 0) {
    world.after(milliseconds(timeout), [this, alive = std::weak_ptr(alive_)] {
      if (!alive.expired()) resume();
    });
  }
  return static_cast<int>(count);
}

void KernelEpoll::kill() {
  std::erase_if(interests_, [&](const auto& interest) {
    const auto file = interest->file.lock();
    if (file && file->of_driver) return false;
    epoll_event gone = interest->event;
    gone.events = interest->wanted() | kAlways;
    last_events_.push_back(gone);
    return true;
  });
}

void KernelTimer::set(std::optional<Instant> at) {
  expired_ = false;
  const uint64_t setting = ++set_;
  if (!at || World::current().canary_strikes(Canary::kLoseAlarm, 0.01)) return;
  World::current().at(*at, [weak = weak_from_this(), setting] {
    const auto self = weak.lock();
    if (!self || self->set_ != setting) return;
    self->expired_ = true;
    self->changed(EPOLLIN);
  });
}

}  // namespace virtproxy::sim
