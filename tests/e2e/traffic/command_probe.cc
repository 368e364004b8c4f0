// probe: how long do others wait? One echo stream plays ping-pong, and new echo connections are
// opened all the time; the slowest of each is what matters. A question still open at the end counts
// too.

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>

#include "commands.h"
#include "content.h"
#include "loop.h"
#include "net.h"
#include "report.h"

namespace virtproxy::traffic {
namespace {

class ProbeStream;

class ProbeOwner {
 public:
  virtual ~ProbeOwner() = default;
  virtual void OnAnswer(ProbeStream* stream, double ms) = 0;
  virtual void OnEnd(ProbeStream* stream) = 0;
  virtual void OnTrouble(ProbeStream* stream, const std::string& what) = 0;
};

// One echo connection: Ask() sends a question, the owner hears when the whole answer is back.
class ProbeStream : public Watcher {
 public:
  ProbeStream(Loop* loop, ProbeOwner* owner, int fd, uint64_t seed, TimePoint asked)
      : loop_(loop), owner_(owner), fd_(fd), content_(seed), asked_(asked) {
    loop_->Add(fd_, EPOLLIN, this);
  }
  ~ProbeStream() override {
    loop_->ClearTimer(this);
    if (fd_ >= 0) close(fd_);
  }

  void Ask(size_t size, TimePoint asked) {
    asked_ = asked;
    waiting_ = true;
    out_.resize(size);
    content_.Fill(position_, out_);
    due_ = size;
    Send();
  }
  // Says that no more questions come; OnEnd follows when the service has said the same.
  void End() {
    ending_ = true;
    waiting_ = true;
    asked_ = Clock::now();
    shutdown(fd_, SHUT_WR);
  }
  void SetPause(Clock::duration pause) { loop_->SetTimer(this, Clock::now() + pause); }
  std::function<void()> on_pause_end;

  bool waiting() const { return waiting_; }
  TimePoint asked() const { return asked_; }

  void OnTimer() override { on_pause_end(); }

  void OnEvents(uint32_t events) override {
    if (fd_ < 0) return;
    if ((events & EPOLLERR) != 0) return Trouble("socket: " + ErrorText(TakeError(fd_)));
    if ((events & EPOLLOUT) != 0 && !out_.empty()) Send();
    if (fd_ >= 0 && (events & (EPOLLIN | EPOLLHUP)) != 0) Receive();
  }

 private:
  void Send() {
    const ssize_t n = send(fd_, out_.data(), out_.size(), MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR && errno != ENOTCONN) {
      return Trouble("send: " + ErrorText(errno));
    }
    if (n > 0) out_.erase(0, static_cast<size_t>(n));
    loop_->Modify(fd_, out_.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT, this);
  }

  void Receive() {
    char data[4096];
    const ssize_t n = recv(fd_, data, sizeof(data), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOTCONN)) return;
    if (n < 0) return Trouble("recv: " + ErrorText(errno));
    if (n == 0) {
      if (!ending_) return Trouble("the echo ended by itself");
      loop_->Remove(fd_);
      close(fd_);
      fd_ = -1;
      return owner_->OnEnd(this);
    }
    const auto size = static_cast<size_t>(n);
    if (size > due_) return Trouble("more came back than was sent");
    if (content_.FirstDifference(position_, {data, size})) return Trouble("a wrong byte came back");
    position_ += size;
    due_ -= size;
    if (due_ != 0) return;
    waiting_ = false;
    owner_->OnAnswer(this, Milliseconds(Clock::now() - asked_));
  }

  void Trouble(const std::string& what) { owner_->OnTrouble(this, what); }

  Loop* loop_;
  ProbeOwner* owner_;
  int fd_;
  Content content_;
  TimePoint asked_;
  std::string out_;
  uint64_t position_ = 0;
  size_t due_ = 0;
  bool waiting_ = false;
  bool ending_ = false;
};

class Probe : public ProbeOwner {
 public:
  explicit Probe(const ProbeOptions& options)
      : options_(options), target_(Address::Parse(options.connect)) {}

  int Run() {
    end_ = Clock::now() + std::chrono::microseconds(static_cast<int64_t>(options_.seconds * 1e6));
    pinger_ = Open();
    if (pinger_ == nullptr) throw Failure("the backlog of " + target_.text + " is full");
    pinger_->on_pause_end = [this] { pinger_->Ask(options_.size, Clock::now()); };
    Ticker opener(&loop_, std::chrono::microseconds(options_.open_interval_us), [this] {
      if (Clock::now() < end_) Open();
      CheckTimeouts();
    });
    loop_.Run();
    if (failure_.empty() && loop_.Signalled() && !options_.until_signal) failure_ = "interrupted by a signal";
    if (options_.until_signal && pinger_->waiting()) {
      pings_.Add(Milliseconds(Clock::now() - pinger_->asked()));
    }
    Json json;
    json.Set("role", "probe").Set("ok", failure_.empty());
    json.Set("echo", pings_.Summary()).Set("open", opens_.Summary());
    json.Set("backlog_full", backlog_full_);
    if (!failure_.empty()) json.Set("failure", failure_);
    json.Print();
    return failure_.empty() ? 0 : 1;
  }

  void OnAnswer(ProbeStream* stream, double ms) override {
    if (stream != pinger_) {
      opens_.Add(ms);
      return stream->End();
    }
    pings_.Add(ms);
    if (Clock::now() >= end_) return stream->End();
    stream->SetPause(std::chrono::microseconds(options_.ping_interval_us));
  }

  void OnEnd(ProbeStream* stream) override {
    const auto found = streams_.find(stream);
    loop_.Retire(std::move(found->second));
    streams_.erase(found);
    if (Clock::now() >= end_ && streams_.empty()) loop_.Stop();
  }

  void OnTrouble(ProbeStream* stream, const std::string& what) override {
    if (!failure_.empty()) return;
    failure_ = std::string(stream == pinger_ ? "the echo stream" : "a new connection") + " after " +
               std::to_string(pings_.Count()) + " pings and " + std::to_string(opens_.Count()) +
               " connections: " + what;
    Complain("FAILED " + failure_);
    loop_.Stop();
  }

 private:
  ProbeStream* Open() {
    const TimePoint begin = Clock::now();
    int fd = -1;
    if (StartConnect(target_, &fd) == ConnectState::kTryLater) {
      ++backlog_full_;  // A unix listener whose owner is slow to accept: that is a wait as well.
      return nullptr;
    }
    auto stream = std::make_unique<ProbeStream>(&loop_, this, fd, ++opened_, begin);
    ProbeStream* key = stream.get();
    streams_.emplace(key, std::move(stream));
    key->Ask(options_.size, begin);
    return key;
  }

  void CheckTimeouts() {
    const TimePoint now = Clock::now();
    for (const auto& [stream, owned] : streams_) {
      if (!stream->waiting()) continue;
      const double waited = Milliseconds(now - stream->asked());
      if (waited > options_.timeout * 1000) {
        return OnTrouble(stream, "no answer for " + std::to_string(waited) + " ms");
      }
    }
  }

  const ProbeOptions options_;
  const Address target_;
  Loop loop_;
  std::unordered_map<ProbeStream*, std::unique_ptr<ProbeStream>> streams_;
  ProbeStream* pinger_ = nullptr;
  TimePoint end_;
  uint64_t opened_ = 0;
  uint64_t backlog_full_ = 0;
  Latencies pings_;
  Latencies opens_;
  std::string failure_;
};

}  // namespace

int RunProbe(const ProbeOptions& options) { return Probe(options).Run(); }

}  // namespace virtproxy::traffic
