#include "uring/service/logs/stdout_sink.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "uring/base/log.h"

namespace virtproxy {

void StdoutSink::start(Loop& loop, ResolverDriver&, Client* client) {
  loop_ = &loop;
  client_ = client;
  struct stat status {};
  regular_ = fstat(STDOUT_FILENO, &status) == 0 && S_ISREG(status.st_mode);
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

void StdoutSink::await() {
  if (!poll_.pending && !stopped_) loop_->driver().poll(poll_, {STDOUT_FILENO, -1}, POLLOUT);
}

void StdoutSink::complete(Op&, Outcome) {
  if (!stopped_) client_->sink_progressed();
}

void StdoutSink::flush() {
  if (stopped_ || broken_ || poll_.pending || safe_ == taken_) return;
  const size_t end = std::min(pending_.size(), written_ + kTurn);
  while (written_ < end) {
    pollfd ready{STDOUT_FILENO, POLLOUT, 0};
    if (!regular_ && (::poll(&ready, 1, 0) != 1 || (ready.revents & POLLOUT) == 0)) {
      if ((ready.revents & (POLLERR | POLLNVAL)) == 0) return await();
    }
    const ssize_t done = write(STDOUT_FILENO, pending_.data() + written_,
                               std::min(regular_ ? kTurn : kChunk, end - written_));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0 && errno == EAGAIN) return await();
    if (done < 0) {
      log_error("standard output: {}: no more lines are taken, start with one that is read",
                std::strerror(errno));
      broken_ = true;
      counters().up = false;
      counters().failures.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    written_ += static_cast<size_t>(done);
    counters().written.fetch_add(static_cast<uint64_t>(done), std::memory_order_relaxed);
  }
  if (written_ < pending_.size()) return client_->sink_progressed();
  pending_.clear();
  written_ = 0;
  safe_ = taken_;
}

void StdoutSink::stop() {
  stopped_ = true;
  if (poll_.pending) loop_->driver().cancel(poll_);
}

}  // namespace virtproxy
