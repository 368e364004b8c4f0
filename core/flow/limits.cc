#include "core/flow/limits.h"

#include <algorithm>

namespace virtproxy {

namespace {
constexpr uint64_t kMostInitialWindow = 64 * 1024;
// Half of the memory is promised.
constexpr uint64_t kLeastMemoryPerStream = 2 * protocol_limits::kMinInitialWindow;
}  // namespace

uint64_t most_streams(uint64_t receive_memory) { return receive_memory / kLeastMemoryPerStream; }

uint64_t least_receive_memory(uint64_t streams) { return streams * kLeastMemoryPerStream; }

SessionLimits derive_limits(uint64_t receive_memory, uint32_t max_streams, uint32_t window,
                            uint32_t max_frame) {
  const uint64_t share = receive_memory / 2 / max_streams;
  const uint64_t initial = std::min<uint64_t>({share, window, kMostInitialWindow});
  SessionLimits limits;
  limits.max_streams = max_streams;
  const bool suffices = max_streams <= most_streams(receive_memory);
  limits.initial_window = suffices ? static_cast<uint32_t>(initial) : 0;
  limits.max_window = std::max(window, limits.initial_window);
  limits.receive_budget = receive_memory;
  limits.max_frame = max_frame;
  return limits;
}

}  // namespace virtproxy
