// The floor, copying, on io_uring: for each direction one receive, then one send of all of it.
//
// A turn submits everything that became possible and waits for the next completions in one system
// call. A receive that is expected to wait (the one before it found less than a buffer full) asks
// the kernel not to try first.

#include <liburing.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>

#include "perf/relays/relay.h"

namespace virtproxy::relay {
namespace {

constexpr unsigned kEntries = 4096;

struct Connection;

// Bytes from `from` to `to`. One operation of it is under way at any time, until it has ended.
struct Direction {
  Connection* connection = nullptr;
  int from = -1;
  int to = -1;
  char* buffer = nullptr;
  bool sending = false;
  bool full = false;  // the last receive filled the buffer: more is there
};

struct Connection {
  Direction directions[2];
  int running = 2;  // directions that have not ended
};

class Relay {
 public:
  explicit Relay(const Options& options) : options_(options), listener_(listen_at(options)) {
    io_uring_params params{};
    params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN |
                   IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE;
    params.cq_entries = 16 * kEntries;
    errno = -io_uring_queue_init_params(kEntries, &ring_, &params);
    if (errno != 0) die("io_uring_queue_init_params");
    io_uring_register_ring_fd(&ring_);
  }

  [[noreturn]] void run() {
    accept();
    for (;;) {
      io_uring_submit_and_wait(&ring_, 1);
      io_uring_cqe* cqe = nullptr;
      unsigned head = 0;
      unsigned count = 0;
      io_uring_for_each_cqe(&ring_, head, cqe) {
        ++count;
        auto* direction = reinterpret_cast<Direction*>(static_cast<uintptr_t>(cqe->user_data));
        if (direction == nullptr) {
          accepted(cqe->res, cqe->flags);
        } else if (direction->sending) {
          sent(*direction, cqe->res);
        } else {
          received(*direction, cqe->res);
        }
      }
      io_uring_cq_advance(&ring_, count);
    }
  }

 private:
  io_uring_sqe* next() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    if (sqe != nullptr) return sqe;
    io_uring_submit(&ring_);
    return io_uring_get_sqe(&ring_);
  }

  void accept() {
    io_uring_sqe* sqe = next();
    io_uring_prep_multishot_accept(sqe, listener_, nullptr, nullptr, SOCK_CLOEXEC);
    io_uring_sqe_set_data(sqe, nullptr);
  }

  void accepted(int fd, uint32_t flags) {
    if ((flags & IORING_CQE_F_MORE) == 0) accept();
    if (fd < 0) return;
    prepare(fd, options_);
    const int out = connect_out(options_);
    if (out < 0) {
      close(fd);
      return;
    }
    auto* connection = new Connection;
    for (int i = 0; i < 2; ++i) {
      Direction& direction = connection->directions[i];
      direction.connection = connection;
      direction.from = i == 0 ? fd : out;
      direction.to = i == 0 ? out : fd;
      direction.buffer =
          buffers_.take([this] { return static_cast<char*>(std::malloc(options_.buffer)); });
      receive(direction);
    }
  }

  void receive(Direction& direction) {
    io_uring_sqe* sqe = next();
    io_uring_prep_recv(sqe, direction.from, direction.buffer, options_.buffer, 0);
    if (!direction.full) sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    io_uring_sqe_set_data(sqe, &direction);
    direction.sending = false;
  }

  void received(Direction& direction, int result) {
    if (result <= 0) {
      end(direction, result < 0);
      return;
    }
    io_uring_sqe* sqe = next();
    io_uring_prep_send(sqe, direction.to, direction.buffer, static_cast<size_t>(result),
                       MSG_NOSIGNAL | MSG_WAITALL);
    io_uring_sqe_set_data(sqe, &direction);
    direction.sending = true;
    direction.full = static_cast<size_t>(result) == options_.buffer;
  }

  void sent(Direction& direction, int result) {
    if (result < 0) {
      end(direction, true);
      return;
    }
    receive(direction);
  }

  void end(Direction& direction, bool broken) {
    shutdown(direction.to, broken ? SHUT_RDWR : SHUT_WR);
    if (broken) shutdown(direction.from, SHUT_RDWR);
    Connection* connection = direction.connection;
    if (--connection->running > 0) return;
    close(direction.from);
    close(direction.to);
    for (const Direction& each : connection->directions) buffers_.give(each.buffer);
    delete connection;
  }

  const Options options_;
  int listener_;
  io_uring ring_{};
  Reserve<char*> buffers_;
};

}  // namespace
}  // namespace virtproxy::relay

int main(int argc, char** argv) {
  virtproxy::relay::Relay(virtproxy::relay::parse_options(argc, argv)).run();
}
