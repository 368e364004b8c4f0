// Those who stand still: services and clients that never read, a listener that never accepts. They
// hold what they have until SIGTERM, then print what they saw.

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <list>
#include <memory>
#include <vector>

#include "commands.h"
#include "content.h"
#include "loop.h"
#include "net.h"
#include "opener.h"
#include "report.h"

namespace virtproxy::traffic {
namespace {

constexpr auto kQuiet = std::chrono::milliseconds(300);

// Small buffers: thousands of stalled streams would otherwise park gigabytes in the kernel.
void ShrinkBuffers(int fd) {
  const int size = 64 * 1024;
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
}

// Writes for ever, never reads. The descriptor is closed when the connection breaks.
class Pusher : public Watcher {
 public:
  struct Shared {
    Loop* loop = nullptr;
    std::function<void()> settled;
    uint64_t bytes = 0;
    uint64_t connected = 0;
    uint64_t lost = 0;
    TimePoint last_progress = Clock::now();
  };

  Pusher(Shared* shared, int fd, bool push) : shared_(shared), fd_(fd), push_(push) {
    ShrinkBuffers(fd_);
    shared_->loop->Add(fd_, EPOLLOUT, this);
  }
  ~Pusher() override {
    if (fd_ >= 0) close(fd_);
  }

  void OnEvents(uint32_t events) override {
    if (fd_ < 0) return;
    if ((events & (EPOLLERR | EPOLLHUP)) != 0) return Lose();
    if (!connected_) {
      connected_ = true;
      ++shared_->connected;
      shared_->last_progress = Clock::now();
      if (shared_->settled) shared_->settled();
      if (!push_) return shared_->loop->Modify(fd_, 0, this);
    }
    Push();
  }

 private:
  void Push() {
    static std::array<char, 64 * 1024> data{};
    if (data[0] == 0) Content(1).Fill(0, data);
    for (int round = 0; round < 4; ++round) {
      const ssize_t n = send(fd_, data.data(), data.size(), MSG_NOSIGNAL);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (n < 0) return Lose();
      shared_->bytes += static_cast<uint64_t>(n);
      shared_->last_progress = Clock::now();
    }
  }

  void Lose() {
    ++shared_->lost;
    if (!connected_ && shared_->settled) shared_->settled();
    shared_->loop->Remove(fd_);
    close(fd_);
    fd_ = -1;
  }

  Shared* shared_;
  int fd_;
  bool push_;
  bool connected_ = false;
};

void PrintFinal(const char* role, const Pusher::Shared& shared) {
  Json()
      .Set("role", role)
      .Set("ok", true)
      .Set("connected", shared.connected)
      .Set("lost", shared.lost)
      .Set("bytes", shared.bytes)
      .Print();
}

}  // namespace

int RunSinkNever(const HoldOptions& options) {
  Loop loop;
  std::vector<int> held;
  Acceptor acceptor(&loop, Listen(Address::Parse(options.address), 4096), [&held](int fd) {
    ShrinkBuffers(fd);
    held.push_back(fd);
  });
  Json().Set("ready", options.address).Print();
  loop.Run();
  Json().Set("role", "sink-never").Set("ok", true).Set("accepted", uint64_t{held.size()}).Print();
  for (const int fd : held) close(fd);
  return 0;
}

int RunPour(const HoldOptions& options) {
  Loop loop;
  Pusher::Shared shared;
  shared.loop = &loop;
  std::list<Pusher> pushers;
  Acceptor acceptor(&loop, Listen(Address::Parse(options.address), 4096),
                    [&](int fd) { pushers.emplace_back(&shared, fd, true); });
  Json().Set("ready", options.address).Print();
  // Says so each time that nothing goes any more: the clients have stopped reading.
  uint64_t told_bytes = 0;
  Ticker watch(&loop, std::chrono::milliseconds(20), [&] {
    if (shared.bytes == told_bytes || Clock::now() - shared.last_progress < kQuiet) return;
    told_bytes = shared.bytes;
    Json().Set("stuck", shared.connected).Set("lost", shared.lost).Set("bytes", told_bytes).Print();
  });
  loop.Run();
  PrintFinal("pour", shared);
  return 0;
}

int RunSourceStuck(const HoldOptions& options) {
  Loop loop;
  Pusher::Shared shared;
  shared.loop = &loop;
  std::list<Pusher> pushers;
  Opener opener(&loop, Address::Parse(options.address), options.streams,
                [&](int fd) { pushers.emplace_back(&shared, fd, options.push); });
  shared.settled = [&opener] { opener.Settled(); };
  bool told = false;
  Ticker watch(&loop, std::chrono::milliseconds(20), [&] {
    if (told || shared.connected + shared.lost < options.streams) return;
    if (Clock::now() - shared.last_progress < kQuiet) return;
    told = true;
    Json()
        .Set("stuck", shared.connected)
        .Set("lost", shared.lost)
        .Set("bytes", shared.bytes)
        .Print();
  });
  loop.Run();
  PrintFinal("source-stuck", shared);
  return told ? 0 : 1;
}

int RunNeverAccept(const HoldOptions& options) {
  Loop loop;
  const Address address = Address::Parse(options.address);
  const int listener = Listen(address, 0);
  // Fill the backlog with own connections until two of them hang, or a unix connect says so.
  std::list<Pusher> fillers;
  Pusher::Shared shared;
  shared.loop = &loop;
  uint64_t started = 0;
  bool told = false;
  TimePoint last_start = Clock::now();
  const auto full = [&] {
    told = true;
    Json().Set("ready", options.address).Set("backlog", shared.connected).Print();
  };
  Ticker filler(&loop, std::chrono::milliseconds(20), [&] {
    if (told) return;
    if (started - shared.connected >= 2) {
      if (Clock::now() - last_start >= kQuiet) full();
      return;
    }
    int fd = -1;
    if (StartConnect(address, &fd) == ConnectState::kTryLater) return full();
    ++started;
    last_start = Clock::now();
    fillers.emplace_back(&shared, fd, false);
  });
  loop.Run();
  Json().Set("role", "never-accept").Set("ok", told).Print();
  close(listener);
  return told ? 0 : 1;
}

}  // namespace virtproxy::traffic
