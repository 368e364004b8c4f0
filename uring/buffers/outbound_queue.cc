#include "uring/buffers/outbound_queue.h"

#include <algorithm>

namespace virtproxy {

OutSegment OutboundQueue::take_piped(uint32_t bytes) {
  VP_ASSERT(pipe_ != nullptr && sent_ < queued_);
  const auto size = static_cast<uint32_t>(std::min<uint64_t>(bytes, queued_ - sent_));
  sent_ += size;
  PipePool::add_reference(pipe_);
  return {.pipe = pipe_, .piped = size};
}

void OutboundQueue::clear() {
  acked_ = sent_ = queued_;
  unsent_ = nullptr;
  while (head_ != nullptr) pop();
  if (pipe_ != nullptr) pipes_.release(std::exchange(pipe_, nullptr));
}

}  // namespace virtproxy
