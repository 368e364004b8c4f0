// The floor, not copying: splice(2) through a pipe for each direction. The pipe is the buffer. Its
// slots count pieces, not bytes, so that many small pieces fill it early.

#include <cerrno>

#include "perf/relays/epoll_relay.h"

namespace virtproxy::relay {
namespace {

class Splicer {
 public:
  struct Queue {
    int read = -1;
    int write = -1;
    size_t bytes = 0;
  };

  explicit Splicer(const Options& options) : size_(options.buffer) {}

  Queue open() {
    return spare_.take([this] {
      int fds[2];
      if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) != 0) die("pipe2");
      fcntl(fds[1], F_SETPIPE_SZ, static_cast<int>(size_));
      return Queue{fds[0], fds[1], 0};
    });
  }

  void close(Queue& pipe) {
    if (pipe.bytes == 0) {
      spare_.give(pipe);
    } else {
      ::close(pipe.read);
      ::close(pipe.write);
    }
  }

  bool empty(const Queue& pipe) const { return pipe.bytes == 0; }

  Moved fill(int from, Queue& pipe, int to) {
    const ssize_t got = splice(from, nullptr, pipe.write, nullptr, size_, SPLICE_F_NONBLOCK);
    if (got == 0) return Moved::kEnd;
    if (got < 0) return errno == EAGAIN || errno == EINTR ? Moved::kNothing : Moved::kError;
    pipe.bytes += static_cast<size_t>(got);
    return drain(pipe, to) ? Moved::kSome : Moved::kError;
  }

  bool drain(Queue& pipe, int to) {
    while (pipe.bytes > 0) {
      const ssize_t put = splice(pipe.read, nullptr, to, nullptr, pipe.bytes, SPLICE_F_NONBLOCK);
      if (put <= 0) return put < 0 && errno == EAGAIN;
      pipe.bytes -= static_cast<size_t>(put);
    }
    return true;
  }

 private:
  size_t size_;
  Reserve<Queue> spare_;
};

}  // namespace
}  // namespace virtproxy::relay

int main(int argc, char** argv) {
  using namespace virtproxy::relay;
  EpollRelay<Splicer>(parse_options(argc, argv)).run();
}
