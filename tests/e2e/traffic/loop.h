// One epoll loop, one timer per watcher, SIGTERM and SIGINT as an ordinary event.
//
// A watcher that is finished hands itself to Retire(): it is destroyed after the current batch of
// events, so that an event already fetched for it finds it alive (and with no descriptor).

#ifndef VIRTPROXY_TESTS_E2E_TRAFFIC_LOOP_H_
#define VIRTPROXY_TESTS_E2E_TRAFFIC_LOOP_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

namespace virtproxy::traffic {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;

inline double Milliseconds(Clock::duration d) {
  return std::chrono::duration<double, std::milli>(d).count();
}

class Watcher {
 public:
  virtual ~Watcher() = default;
  virtual void OnEvents(uint32_t events) = 0;
  virtual void OnTimer() {}
};

class Loop {
 public:
  Loop();
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  void Add(int fd, uint32_t events, Watcher* watcher);
  void Modify(int fd, uint32_t events, Watcher* watcher);
  void Remove(int fd);

  void SetTimer(Watcher* watcher, TimePoint when);
  void ClearTimer(Watcher* watcher);

  // Destroys the watcher once the batch of events in hand is done.
  void Retire(std::unique_ptr<Watcher> watcher);

  // Runs until Stop() or a signal to end.
  void Run();
  void Stop() { stopped_ = true; }
  bool Signalled() const { return signalled_; }

  // The time at which the current batch began.
  TimePoint Now() const { return now_; }

 private:
  void RunTimers();
  int WaitMilliseconds() const;

  int epoll_ = -1;
  int signals_ = -1;
  bool stopped_ = false;
  bool signalled_ = false;
  TimePoint now_;
  std::set<std::pair<TimePoint, Watcher*>> timers_;
  std::map<Watcher*, TimePoint> timer_of_;
  std::vector<std::unique_ptr<Watcher>> retired_;
};

// Calls a function again and again at a fixed distance.
class Ticker : public Watcher {
 public:
  Ticker(Loop* loop, Clock::duration distance, std::function<void()> call)
      : loop_(loop), distance_(distance), call_(std::move(call)) {
    loop_->SetTimer(this, Clock::now() + distance_);
  }
  ~Ticker() override { loop_->ClearTimer(this); }
  void OnEvents(uint32_t) override {}
  void OnTimer() override {
    loop_->SetTimer(this, Clock::now() + distance_);
    call_();
  }

 private:
  Loop* loop_;
  Clock::duration distance_;
  std::function<void()> call_;
};

// Accepts connections and hands them over one by one.
class Acceptor : public Watcher {
 public:
  Acceptor(Loop* loop, int listener, std::function<void(int)> take);
  ~Acceptor() override;
  void OnEvents(uint32_t events) override;

 private:
  Loop* loop_;
  int listener_;
  std::function<void(int)> take_;
};

}  // namespace virtproxy::traffic

#endif  // VIRTPROXY_TESTS_E2E_TRAFFIC_LOOP_H_
