// Counts that one thread writes and the supervisor reads while load runs.
#pragma once

#include <atomic>
#include <cstdint>

namespace virtproxy::bench {

// A counter with a single writer: no locked instruction is needed to add to it.
class Counter {
 public:
  void add(uint64_t amount) {
    value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
  }
  void set(uint64_t value) { value_.store(value, std::memory_order_relaxed); }
  uint64_t get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Payload only: requests, greetings and trailers are not counted.
struct alignas(64) Counters {
  Counter stream_sent;
  Counter stream_received;
  Counter exchange_bytes;
  Counter exchanges;
  Counter connections;
  Counter mismatches;
  Counter refused;  // requests that were not ours

  // Grows whenever anything moved.
  uint64_t progress() const {
    return stream_sent.get() + stream_received.get() + exchange_bytes.get() + connections.get();
  }
};

}  // namespace virtproxy::bench
