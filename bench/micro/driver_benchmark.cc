// What the ring and the receive pool cost: a turn, a message through a socket, a buffer.

#include <benchmark/benchmark.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "uring/buffers/receive_pool.h"
#include "uring/io/io_uring_driver.h"

namespace virtproxy {
namespace {

std::unique_ptr<IoUringDriver> open_ring(benchmark::State& state) {
  auto ring = IoUringDriver::open(256, DriverFeatures{});
  if (ring) return std::move(*ring);
  state.SkipWithError(ring.error().c_str());
  return nullptr;
}

// Remembers what it was told last.
class Result final : public Completion {
 public:
  void complete(Op&, Outcome outcome) override {
    ++count;
    value = outcome.result;
    buffer = outcome.buffer;
  }
  int count = 0;
  int value = 0;
  int buffer = Outcome::kNoBuffer;
};

void turn(IoUringDriver& ring) {
  if (ring.wait(std::nullopt) != 0) std::abort();
  ring.dispatch();
}

struct SocketPair {
  SocketPair() {
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) std::abort();
  }
  ~SocketPair() {
    close(fds[0]);
    close(fds[1]);
  }
  File file(int end) const { return {fds[end], -1}; }
  int fds[2];
};

// The least that a turn can be: a poll of a socket that is writable, submitted, waited for and
// handed out.
void BM_RingTurn(benchmark::State& state) {
  const auto ring = open_ring(state);
  if (!ring) return;
  const SocketPair sockets;
  Result result;
  Op op(&result);
  for (auto _ : state) {
    ring->poll(op, sockets.file(0), POLLOUT);
    turn(*ring);
  }
}
BENCHMARK(BM_RingTurn);

// A message into a socket and out of it at its other end, each in its own turn: 2 turns. Argument:
// bytes.
void BM_RingMessage(benchmark::State& state) {
  const auto ring = open_ring(state);
  if (!ring) return;
  const SocketPair sockets;
  Result sent;
  Result received;
  Op send(&sent);
  Op receive(&received);
  std::vector<std::byte> out(static_cast<size_t>(state.range(0)));
  std::vector<std::byte> in(out.size());
  for (auto _ : state) {
    ring->send(send, sockets.file(0), out.data(), out.size(), SendMode::kAll);
    turn(*ring);
    ring->recv(receive, sockets.file(1), in.data(), in.size(), false);
    turn(*ring);
    if (received.value != state.range(0)) state.SkipWithError("a message was cut");
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_RingMessage)->Arg(64)->Arg(4096)->Arg(65536);

// The same with a receive that waits in the kernel when the message is sent: 1 turn, as a daemon at
// rest is woken.
void BM_RingWakeUp(benchmark::State& state) {
  const auto ring = open_ring(state);
  if (!ring) return;
  const SocketPair sockets;
  Result sent;
  Result received;
  Op send(&sent);
  Op receive(&received);
  std::byte out[64]{};
  std::byte in[64];
  for (auto _ : state) {
    const int before = received.count;
    ring->recv(receive, sockets.file(1), in, sizeof in, true);
    ring->send(send, sockets.file(0), out, sizeof out, SendMode::kAll);
    while (received.count == before || send.pending) turn(*ring);
  }
}
BENCHMARK(BM_RingWakeUp);

// Through buffers that the kernel picks, given back after each message. Argument: bytes.
void BM_ReceivePoolRound(benchmark::State& state) {
  const auto ring = open_ring(state);
  if (!ring) return;
  ReceivePool pool(*ring, 16u << 20, 0);
  if (!pool.provided()) {
    state.SkipWithError("this kernel does not pick buffers");
    return;
  }
  const auto size = static_cast<size_t>(state.range(0));
  const BufferSize kind =
      size <= ReceivePool::kSmallBytes ? BufferSize::kSmall : BufferSize::kLarge;
  const SocketPair sockets;
  Result sent;
  Result received;
  Op send(&sent);
  Op receive(&received);
  const std::vector<std::byte> out(size);
  for (auto _ : state) {
    pool.replenish();
    ring->send(send, sockets.file(0), out.data(), size, SendMode::kAll);
    turn(*ring);
    ring->recv_provided(receive, sockets.file(1), pool.group(kind), pool.capacity(kind), false);
    turn(*ring);
    if (received.value <= 0) {
      state.SkipWithError("nothing was received");
      break;
    }
    pool.release(pool.claim(kind, static_cast<uint32_t>(received.buffer),
                            static_cast<uint32_t>(received.value)));
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_ReceivePoolRound)->Arg(64)->Arg(4096)->Arg(65536);

// A buffer taken and given back, without the kernel.
void BM_ReceivePoolTake(benchmark::State& state) {
  const auto ring = open_ring(state);
  if (!ring) return;
  ReceivePool pool(*ring, 16u << 20, 0);
  for (auto _ : state) {
    // const: what is not, the optimiser may take for changed.
    Buffer* const buffer = pool.take(BufferSize::kLarge);
    benchmark::DoNotOptimize(buffer);
    if (buffer == nullptr) std::abort();
    pool.release(buffer);
  }
}
BENCHMARK(BM_ReceivePoolTake);

}  // namespace
}  // namespace virtproxy
