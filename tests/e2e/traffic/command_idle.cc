// idle: connections that have been proven with one echoed byte and then only exist.

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <list>

#include "commands.h"
#include "loop.h"
#include "net.h"
#include "opener.h"
#include "report.h"

namespace virtproxy::traffic {
namespace {

struct IdleTally {
  Loop* loop = nullptr;
  std::function<void()> settled;
  uint64_t held = 0;
  std::string failure;

  void Fail(const std::string& what) {
    if (failure.empty()) {
      failure = what;
      Complain("FAILED " + what);
    }
    loop->Stop();
  }
};

class IdleStream : public Watcher {
 public:
  IdleStream(IdleTally* tally, int fd, uint64_t number)
      : tally_(tally), fd_(fd), number_(number), proof_(static_cast<char>('A' + number % 26)) {
    tally_->loop->Add(fd_, EPOLLOUT, this);
  }
  ~IdleStream() override { close(fd_); }

  void OnEvents(uint32_t) override {
    const std::string name = "stream=" + std::to_string(number_) + ": ";
    if (!sent_) {
      const ssize_t n = send(fd_, &proof_, 1, MSG_NOSIGNAL);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (n < 0) return tally_->Fail(name + "connect or send: " + ErrorText(errno));
      sent_ = true;
      return tally_->loop->Modify(fd_, EPOLLIN, this);
    }
    char got = 0;
    const ssize_t n = recv(fd_, &got, 1, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n < 0) return tally_->Fail(name + "recv: " + ErrorText(errno));
    if (n == 0) return tally_->Fail(name + "ended while it should be idle");
    if (proven_ || got != proof_) return tally_->Fail(name + "a wrong byte came back");
    proven_ = true;
    ++tally_->held;
    tally_->settled();
  }

 private:
  IdleTally* tally_;
  int fd_;
  uint64_t number_;
  char proof_;
  bool sent_ = false;
  bool proven_ = false;
};

}  // namespace

int RunIdle(const HoldOptions& options) {
  Loop loop;
  IdleTally tally;
  tally.loop = &loop;
  std::list<IdleStream> streams;
  Opener opener(&loop, Address::Parse(options.address), options.streams,
                [&](int fd) { streams.emplace_back(&tally, fd, streams.size()); });
  bool told = false;
  tally.settled = [&] {
    opener.Settled();
    if (told || tally.held < options.streams) return;
    told = true;
    Json().Set("held", tally.held).Print();
  };
  loop.Run();
  if (tally.failure.empty() && !told) {
    tally.failure = "only " + std::to_string(tally.held) + " connections were proven";
    Complain("FAILED " + tally.failure);
  }
  Json json;
  json.Set("role", "idle").Set("ok", tally.failure.empty()).Set("held", tally.held);
  if (!tally.failure.empty()) json.Set("failure", tally.failure);
  json.Print();
  return tally.failure.empty() ? 0 : 1;
}

}  // namespace virtproxy::traffic
