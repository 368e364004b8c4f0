// The floor, copying: one read and one write for each wake-up of a socket. All connections share
// one buffer, which therefore stays in the cache; what a socket does not take is kept aside.

#include <algorithm>
#include <cerrno>

#include "perf/relays/epoll_relay.h"

namespace virtproxy::relay {
namespace {

class Copier {
 public:
  struct Queue {
    std::vector<char> bytes;
    size_t taken = 0;
  };

  explicit Copier(const Options& options) : buffer_(options.buffer) {}

  Queue open() { return {}; }
  void close(Queue&) {}
  bool empty(const Queue& queue) const { return queue.bytes.empty(); }

  Moved fill(int from, Queue& queue, int to) {
    const ssize_t got = read(from, buffer_.data(), buffer_.size());
    if (got == 0) return Moved::kEnd;
    if (got < 0) return errno == EAGAIN || errno == EINTR ? Moved::kNothing : Moved::kError;
    const ssize_t put = send(to, buffer_.data(), static_cast<size_t>(got), MSG_NOSIGNAL);
    if (put < 0 && errno != EAGAIN) return Moved::kError;
    if (put < got) {
      queue.bytes.assign(buffer_.data() + std::max<ssize_t>(put, 0), buffer_.data() + got);
      queue.taken = 0;
    }
    return Moved::kSome;
  }

  bool drain(Queue& queue, int to) {
    const ssize_t put =
        send(to, queue.bytes.data() + queue.taken, queue.bytes.size() - queue.taken, MSG_NOSIGNAL);
    if (put < 0) return errno == EAGAIN;
    queue.taken += static_cast<size_t>(put);
    if (queue.taken == queue.bytes.size()) queue.bytes.clear();
    return true;
  }

 private:
  std::vector<char> buffer_;
};

}  // namespace
}  // namespace virtproxy::relay

int main(int argc, char** argv) {
  using namespace virtproxy::relay;
  EpollRelay<Copier>(parse_options(argc, argv)).run();
}
