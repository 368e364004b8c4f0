// The echo service: everything comes back, and so does the end of the stream.

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <string>
#include <unordered_map>

#include "commands.h"
#include "loop.h"
#include "net.h"
#include "report.h"

namespace virtproxy::traffic {
namespace {

std::array<char, 64 * 1024> scratch;

class EchoService;

class EchoStream : public Watcher {
 public:
  EchoStream(EchoService* service, Loop* loop, int fd) : service_(service), loop_(loop), fd_(fd) {
    loop_->Add(fd_, EPOLLIN, this);
  }
  ~EchoStream() override {
    if (fd_ >= 0) close(fd_);
  }

  void OnEvents(uint32_t events) override;

 private:
  bool Flush();
  void Close();

  EchoService* service_;
  Loop* loop_;
  int fd_;
  std::string pending_;  // Only what the socket did not take at once.
};

class EchoService {
 public:
  explicit EchoService(const std::string& listen)
      : acceptor_(&loop_, Listen(Address::Parse(listen), 4096), [this](int fd) {
          auto stream = std::make_unique<EchoStream>(this, &loop_, fd);
          EchoStream* key = stream.get();
          streams_.emplace(key, std::move(stream));
          ++accepted_;
        }) {
    Json().Set("ready", listen).Print();
  }

  int Run() {
    loop_.Run();
    Json().Set("role", "echo").Set("ok", true).Set("accepted", accepted_).Print();
    return 0;
  }

  void Forget(EchoStream* stream) {
    const auto found = streams_.find(stream);
    loop_.Retire(std::move(found->second));
    streams_.erase(found);
  }

 private:
  Loop loop_;
  std::unordered_map<EchoStream*, std::unique_ptr<EchoStream>> streams_;
  Acceptor acceptor_;
  uint64_t accepted_ = 0;
};

void EchoStream::OnEvents(uint32_t) {
  if (fd_ < 0) return;
  if (!Flush()) return;
  for (int round = 0; round < 4; ++round) {
    const ssize_t n = recv(fd_, scratch.data(), scratch.size(), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) return Close();  // At the end nothing is pending: close() says it all.
    pending_.assign(scratch.data(), static_cast<size_t>(n));
    if (!Flush()) return;
  }
}

// True when nothing is left to send and the stream still lives.
bool EchoStream::Flush() {
  if (pending_.empty()) return true;
  const ssize_t n = send(fd_, pending_.data(), pending_.size(), MSG_NOSIGNAL);
  if (n < 0 && errno != EAGAIN && errno != EINTR) {
    Close();
    return false;
  }
  if (n > 0) pending_.erase(0, static_cast<size_t>(n));
  loop_->Modify(fd_, pending_.empty() ? EPOLLIN : EPOLLOUT, this);
  if (!pending_.empty()) return false;
  pending_.shrink_to_fit();
  return true;
}

void EchoStream::Close() {
  loop_->Remove(fd_);
  close(fd_);
  fd_ = -1;
  service_->Forget(this);
}

}  // namespace

int RunEcho(const std::string& listen) { return EchoService(listen).Run(); }

}  // namespace virtproxy::traffic
