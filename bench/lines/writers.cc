#include "lines/writers.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "clock.h"
#include "environment.h"
#include "pacer.h"

namespace virtproxy::bench::lines {
namespace {

constexpr int64_t kRetry = 5 * kMillisecond;
constexpr int64_t kGiveUp = kSecond;
constexpr int64_t kPoll =
    100 * kMillisecond;  // how often a blocked write looks whether it shall end

void sleep_until(int64_t when) {
  const timespec until{when / kSecond, when % kSecond};
  ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
}

std::string header_text(Header header) {
  switch (header) {
    case Header::kNone:
      return {};
    case Header::kRfc3164:
      return "<13>Jan  1 00:00:00 vplines: ";
    case Header::kRfc5424:
      return "<13>1 2000-01-01T00:00:00Z - vplines - - - ";
  }
  return {};
}

// What a peer that ended or restarts leads to.
bool is_gone(int error) {
  return error == EPIPE || error == ECONNRESET || error == ECONNREFUSED || error == ENOENT ||
         error == ENOTCONN || error == ECONNABORTED;
}

}  // namespace

class Writers::Thread {
 public:
  Thread(Writers& owner, uint32_t writer)
      : owner_(owner),
        plan_(owner.plan_),
        stats_(owner.stats_[writer]),
        writer_(writer),
        header_(header_text(plan_.header)) {
    const size_t message = header_.size() + plan_.shape.size;
    const bool stream = !plan_.source->datagram();
    if (stream && plan_.write_framing == Framing::kOctet) {
      prefix_ = fmt::format("{} ", message);
    }
    lf_ = stream && plan_.write_framing == Framing::kLf;
    message_size_ = prefix_.size() + message + (lf_ ? 1 : 0);
    buffer_.resize(message_size_ * plan_.batch);
    for (size_t i = 0; i < plan_.batch; ++i) {
      char* at = buffer_.data() + i * message_size_;
      std::memcpy(at, prefix_.data(), prefix_.size());
      std::memcpy(at + prefix_.size(), header_.data(), header_.size());
      at[message_size_ - 1] = '\n';
    }
    if (plan_.source->datagram()) {
      vectors_.resize(plan_.batch);
      messages_.resize(plan_.batch);
      for (size_t i = 0; i < plan_.batch; ++i) {
        vectors_[i] = {buffer_.data() + i * message_size_, message_size_};
        messages_[i].msg_hdr.msg_iov = &vectors_[i];
        messages_[i].msg_hdr.msg_iovlen = 1;
      }
    }
  }

  void run() {
    if (!connect(plan_.wait)) return;
    Pacer pacer(plan_.rate / static_cast<double>(plan_.shape.writers));
    const int64_t start = now_ns();
    pacer.start(start);
    const int64_t end = plan_.count > 0 ? std::numeric_limits<int64_t>::max()
                                        : start + static_cast<int64_t>(plan_.duration * kSecond);
    const uint64_t most = plan_.count > 0 ? plan_.count : std::numeric_limits<uint64_t>::max();
    for (uint64_t number = 0; number < most;) {
      int64_t now = now_ns();
      if (now >= end || stopping()) return;
      size_t lines = static_cast<size_t>(std::min(plan_.batch, most - number));
      int64_t due = now;
      if (pacer.paced()) {
        if (pacer.next() > now) {
          if (pacer.next() >= end) return;
          // The end is looked for often enough at any rate.
          sleep_until(std::min(pacer.next(), now + kPoll));
          if (now_ns() < pacer.next()) continue;
        }
        now = now_ns();
        due = *pacer.take(now);
        for (size_t i = 1; i < lines; ++i) {
          if (!pacer.take(now)) lines = i;
        }
      }
      for (size_t i = 0; i < lines; ++i) {
        owner_.maker_.make(writer_, number + i, due,
                           buffer_.data() + i * message_size_ + prefix_.size() + header_.size());
      }
      stats_.used.store(number + lines, std::memory_order_release);
      const size_t sent = write(lines);
      number += sent;
      stats_.sent.store(number, std::memory_order_release);
      const int64_t took = now_ns() - now;
      if (took > stats_.longest_write_ns.load(std::memory_order_relaxed)) {
        stats_.longest_write_ns.store(took, std::memory_order_relaxed);
      }
      if (sent < lines) return;
    }
  }

 private:
  bool stopping() const { return owner_.stopping_.load(std::memory_order_acquire); }

  bool connect(double patience) {
    if (plan_.source->kind == EndpointKind::kPipe) {
      fd_ = owner_.pipe_;
      return true;
    }
    const int64_t deadline = now_ns() + static_cast<int64_t>(patience * kSecond);
    const Address& address = plan_.source->address;
    const bool datagram = plan_.source->datagram();
    for (;;) {
      socket_ = UniqueFd(::socket(address.storage.ss_family,
                                  (datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0));
      fd_ = socket_.get();
      const timeval limit{0, kPoll / 1000};
      ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
      if (plan_.source->kind == EndpointKind::kTcp) {
        const int on = 1;
        ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
      }
      if (datagram && message_size_ > 65536) {
        const int size = static_cast<int>(message_size_ * 2 + 65536);
        if (::setsockopt(fd_, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) != 0) {
          ::setsockopt(fd_, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        }
      }
      if (::connect(fd_, address.data(), address.length) == 0) return true;
      const int error = errno;
      if (stopping() || now_ns() >= deadline || !(is_gone(error) || error == EAGAIN)) {
        if (!stopping()) {
          owner_.fail(Outcome::kConnectFailed,
                      fmt::format("cannot connect to {}: {}", address.text, std::strerror(error)));
        }
        return false;
      }
      sleep_until(now_ns() + kRetry);
    }
  }

  // How many lines were taken whole. Fewer than given: the writer ends.
  size_t write(size_t lines) {
    if (plan_.source->kind == EndpointKind::kPipe) {
      const std::lock_guard lock(owner_.pipe_mutex_);
      return write_stream(lines);
    }
    return plan_.source->datagram() ? write_datagrams(lines) : write_stream(lines);
  }

  // What an error leads to: true when the rest is to be written again.
  bool recover(int error, int64_t begun) {
    if (error == EINTR) return true;
    if (error == EAGAIN || error == ENOBUFS) {
      if (error == ENOBUFS) sleep_until(now_ns() + kRetry / 5);
      return !stopping() || now_ns() - begun < kGiveUp;
    }
    if (plan_.reconnect && is_gone(error) && plan_.source->kind != EndpointKind::kPipe) {
      stats_.reconnects.fetch_add(1, std::memory_order_relaxed);
      return !stopping() && connect(1e6);
    }
    owner_.fail(error == EMSGSIZE ? Outcome::kUsage : Outcome::kLost,
                error == EMSGSIZE
                    ? fmt::format("a datagram of {} B is more than {} takes", message_size_,
                                  plan_.source->text)
                    : fmt::format("{}: {}", plan_.source->text, std::strerror(error)));
    return false;
  }

  size_t write_stream(size_t lines) {
    const int64_t begun = now_ns();
    const size_t size = lines * message_size_;
    size_t done = 0;
    while (done < size) {
      const ssize_t put = plan_.source->kind == EndpointKind::kPipe
                              ? ::write(fd_, buffer_.data() + done, size - done)
                              : ::send(fd_, buffer_.data() + done, size - done, MSG_NOSIGNAL);
      if (put >= 0) {
        done += static_cast<size_t>(put);
        continue;
      }
      const int error = errno;
      if (!recover(error, begun)) break;
      // A new connection begins with a whole line.
      if (is_gone(error)) done -= done % message_size_;
    }
    return done / message_size_;
  }

  size_t write_datagrams(size_t lines) {
    const int64_t begun = now_ns();
    size_t done = 0;
    while (done < lines) {
      if (lines == 1) {
        if (::send(fd_, buffer_.data(), message_size_, MSG_NOSIGNAL) >= 0) return 1;
      } else {
        const int put = ::sendmmsg(fd_, messages_.data() + done,
                                   static_cast<unsigned>(lines - done), MSG_NOSIGNAL);
        if (put > 0) {
          done += static_cast<size_t>(put);
          continue;
        }
      }
      if (!recover(errno, begun)) break;
    }
    return done;
  }

  Writers& owner_;
  const LinesPlan& plan_;
  WriterStats& stats_;
  const uint32_t writer_;
  const std::string header_;
  std::string prefix_;
  bool lf_ = false;
  size_t message_size_ = 0;
  std::vector<char> buffer_;
  std::vector<iovec> vectors_;
  std::vector<mmsghdr> messages_;
  UniqueFd socket_;
  int fd_ = -1;
};

Writers::Writers(const LinesPlan& plan)
    : plan_(plan), maker_(plan.shape), stats_(plan.source ? plan.shape.writers : 0) {}

Writers::~Writers() {
  stop();
  join();
  if (pipe_ > 2) ::close(pipe_);
}

void Writers::start() {
  if (!plan_.source) return;
  if (plan_.source->kind == EndpointKind::kPipe) {
    const std::string& path = plan_.source->path;
    pipe_ = path == "-" ? STDOUT_FILENO : ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (pipe_ < 0) {
      throw Failure(Outcome::kConnectFailed,
                    fmt::format("cannot open {}: {}", path, std::strerror(errno)));
    }
  }
  for (uint32_t writer = 0; writer < stats_.size(); ++writer) {
    threads_.emplace_back([this, writer] {
      try {
        pin_thread(plan_.cpus, 0);
        Thread(*this, writer).run();
      } catch (const Failure& failure) {
        fail(failure.outcome(), failure.what());
      } catch (const std::exception& error) {
        fail(Outcome::kConnectFailed, error.what());
      }
      stats_[writer].done.store(true, std::memory_order_release);
    });
  }
}

void Writers::stop() { stopping_.store(true, std::memory_order_release); }

void Writers::join() {
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

uint64_t Writers::sent() const {
  uint64_t sum = 0;
  for (const WriterStats& each : stats_) sum += each.sent.load(std::memory_order_acquire);
  return sum;
}

uint64_t Writers::used() const {
  uint64_t sum = 0;
  for (const WriterStats& each : stats_) sum += each.used.load(std::memory_order_acquire);
  return sum;
}

bool Writers::done() const {
  return std::all_of(stats_.begin(), stats_.end(), [](const WriterStats& each) {
    return each.done.load(std::memory_order_acquire);
  });
}

void Writers::fail(Outcome outcome, std::string text) {
  const std::lock_guard lock(failure_mutex_);
  if (outcome_ != Outcome::kOk) return;
  outcome_ = outcome;
  failure_ = std::move(text);
}

std::string Writers::failure(Outcome& outcome) const {
  const std::lock_guard lock(failure_mutex_);
  if (outcome_ != Outcome::kOk) outcome = outcome_;
  return failure_;
}

}  // namespace virtproxy::bench::lines
