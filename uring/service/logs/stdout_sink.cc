#include "uring/service/logs/stdout_sink.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>

#include "uring/base/close_from.h"
#include "uring/base/log.h"

namespace virtproxy {
namespace {

using Failure = tl::unexpected<std::string>;

Failure failure(const char* what) {
  return Failure(std::string("standard output ") + what + ": " + std::strerror(errno));
}

// The other end of a pseudo-terminal is another one each time that its device is opened.
bool is_new_when_opened(const struct stat& status) {
  constexpr unsigned kPtmxMajor = 5;
  constexpr unsigned kPtmxMinor = 2;
  return S_ISCHR(status.st_mode) && major(status.st_rdev) == kPtmxMajor &&
         minor(status.st_rdev) == kPtmxMinor;
}

// A write that fails so fails for ever.
bool is_lasting(int error) {
  return error == EPIPE || error == ECONNRESET || error == ENOTCONN || error == EBADF ||
         error == ENXIO;
}

// Until standard output takes bytes, or for as long as a disk that is full is left alone.
void await_stdout(int error) {
  pollfd room{STDOUT_FILENO, POLLOUT, 0};
  const bool waits = error == EAGAIN;
  poll(waits ? &room : nullptr, waits ? 1 : 0, waits ? -1 : 1000);
}

// What says without a write that nothing takes standard output any more: a pipe without a reader, a
// terminal that was hung up. Other devices may say so for a moment.
short end_of_stdout() {
  struct stat status {};
  if (fstat(STDOUT_FILENO, &status) != 0) return 0;
  if (S_ISFIFO(status.st_mode)) return POLLERR;
  // The other end of a pseudo-terminal may be closed and opened again.
  if (is_new_when_opened(status)) return 0;
  return isatty(STDOUT_FILENO) == 1 ? POLLHUP : 0;
}

// False once nothing takes standard output any more: from then on the other process keeps its
// lines.
bool await_input(short end) {
  pollfd ends[] = {{STDIN_FILENO, POLLIN, 0}, {STDOUT_FILENO, 0, 0}};
  return poll(ends, end != 0 ? 2 : 1, -1) < 0 || (ends[1].revents & end) == 0;
}

// Until the input ends, or nothing takes the output any more.
[[noreturn]] void copy_to_stdout(int input) {
  prctl(PR_SET_NAME, "virtproxy-out");
  // It ends behind the last line, whatever ends the other process.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE}) {
    std::signal(signal, SIG_IGN);
  }
  // Locks and sockets are the other process's alone, and so is standard error, whose reader may
  // wait for its end.
  if (dup2(input, STDIN_FILENO) < 0) _exit(1);
  close_from(STDERR_FILENO);
  constexpr size_t kSize = 64 * 1024;
  const auto bytes = std::make_unique_for_overwrite<char[]>(kSize);
  const short end = end_of_stdout();
  for (;;) {
    if (!await_input(end)) _exit(1);
    const ssize_t got = read(STDIN_FILENO, bytes.get(), kSize);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) _exit(0);
    for (size_t at = 0; at < static_cast<size_t>(got);) {
      const ssize_t done = write(STDOUT_FILENO, bytes.get() + at, static_cast<size_t>(got) - at);
      if (done >= 0) {
        at += static_cast<size_t>(done);
      } else if (is_lasting(errno) || errno == EIO) {
        _exit(1);
      } else if (errno != EINTR) {
        // The description is shared: another program may have made it one that does not block.
        await_stdout(errno);
      }
    }
  }
}

// The end of a pipe whose other end is copied to standard output.
tl::expected<UniqueFd, std::string> start_copying() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return failure("needs a pipe");
  const UniqueFd there(ends[0]);
  UniqueFd here(ends[1]);
  if (fcntl(here.get(), F_SETFL, O_NONBLOCK) != 0)
    return failure("needs a pipe that does not block");
  const pid_t child = fork();
  if (child < 0) return failure("needs a process that writes to it");
  if (child == 0) copy_to_stdout(there.get());
  return here;
}

}  // namespace

tl::expected<std::unique_ptr<LogSink>, std::string> StdoutSink::open(const SinkSpec& spec) {
  struct stat status {};
  if (fstat(STDOUT_FILENO, &status) != 0) return failure("cannot be used");
  Kind kind = Kind::kFile;
  UniqueFd own;
  if (S_ISSOCK(status.st_mode)) {
    kind = Kind::kSocket;
    int type = 0;
    socklen_t size = sizeof type;
    // One that keeps messages apart would take no more than one of them at a time.
    if (getsockopt(STDOUT_FILENO, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) {
      return Failure("standard output is a socket that is no stream: give a stream, or `| cat`");
    }
  } else if (S_ISFIFO(status.st_mode) || S_ISCHR(status.st_mode)) {
    kind = Kind::kOther;
    if (!is_new_when_opened(status)) {
      own.reset(::open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    }
    if (!own) {
      auto copied = start_copying();
      if (!copied) return Failure(copied.error());
      own = *std::move(copied);
    }
  }
  return std::unique_ptr<LogSink>(new StdoutSink(spec, kind, std::move(own)));
}

void StdoutSink::start(Loop& loop, ResolverDriver&, Client* client) {
  loop_ = &loop;
  client_ = client;
  Timer::Owner* const owner = this;
  retry_ = std::make_unique<Timer>(loop.timers(), owner);
  counters().up = true;
}

void StdoutSink::take(const ParcelView& view) {
  for (const ParcelRecord& record : view.parcel.records) {
    if (!view.wants(record)) continue;
    writer_.append(pending_, view.vm, view.parcel, record);
    pending_ += '\n';
  }
  ++taken_;
}

void StdoutSink::complete(Op&, Outcome) {
  if (state_ != State::kWaiting) return;
  state_ = State::kReady;
  client_->sink_progressed();
}

void StdoutSink::expired(Timer&) {
  state_ = State::kReady;
  client_->sink_progressed();
}

ssize_t StdoutSink::write_some(const char* from, size_t size) const {
  if (kind_ == Kind::kSocket) return send(STDOUT_FILENO, from, size, MSG_DONTWAIT | MSG_NOSIGNAL);
  return write(kind_ == Kind::kFile ? STDOUT_FILENO : own_.get(), from, size);
}

void StdoutSink::fail(int error) {
  counters().failures.fetch_add(1, std::memory_order_relaxed);
  counters().up = false;
  // A terminal that was hung up answers as a disk that is damaged does.
  if (is_lasting(error) || (error == EIO && kind_ != Kind::kFile)) {
    log_error("standard output: {}: no more lines are taken, start with one that is read",
              std::strerror(error));
    state_ = State::kGone;
    return;
  }
  if (!std::exchange(reported_, true)) {
    log_error("standard output: {}: lines wait until it can be written again",
              std::strerror(error));
  }
  state_ = State::kRetrying;
  retry_->set(loop_->now() + kFileRetry);
}

void StdoutSink::flush() {
  if (state_ != State::kReady || safe_ == taken_) return;
  const size_t end = std::min(pending_.size(), written_ + kTurn);
  while (written_ < end) {
    const ssize_t done = write_some(pending_.data() + written_, end - written_);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && errno == EAGAIN) {
      state_ = State::kWaiting;
      const int fd = kind_ == Kind::kOther ? own_.get() : STDOUT_FILENO;
      return loop_->driver().poll(poll_, {fd, -1}, POLLOUT);
    }
    if (done < 0) return fail(errno);
    written_ += static_cast<size_t>(done);
    counters().written.fetch_add(static_cast<uint64_t>(done), std::memory_order_relaxed);
    counters().up = true;
    if (std::exchange(reported_, false)) log_info("standard output: written again");
  }
  if (written_ < pending_.size()) return client_->sink_progressed();
  pending_.clear();
  written_ = 0;
  safe_ = taken_;
}

void StdoutSink::stop() {
  state_ = State::kStopped;
  retry_.reset();
  if (poll_.pending) loop_->driver().cancel(poll_);
}

}  // namespace virtproxy
