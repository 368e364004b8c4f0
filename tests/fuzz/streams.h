// The applications behind one session, as far as the session tells: its streams, and what each of
// them has received and not taken.
#pragma once

#include <cstdint>
#include <map>

#include "core/assert.h"
#include "core/session.h"
#include "tests/fuzz/input.h"

namespace virtproxy::fuzz {

struct Held {
  StreamKey key;
  uint64_t bytes = 0;
  bool finished = false;  // its end was queued
  bool ended = false;
  bool left = false;  // its application is gone
};

class Streams {
 public:
  using Place = std::map<uint32_t, Held>::iterator;

  bool empty() const { return streams_.empty(); }
  size_t size() const { return streams_.size(); }
  void add(StreamKey key) { streams_[key.slot] = {key}; }
  void erase(Place at) { streams_.erase(at); }
  // There must be one.
  Place any(Input& in) {
    auto at = streams_.begin();
    std::advance(at, static_cast<long>(in.number(1) % streams_.size()));
    return at;
  }
  uint64_t held() const {
    uint64_t bytes = 0;
    for (const auto& [slot, stream] : streams_) bytes += stream.bytes;
    return bytes;
  }

  // Forgets the events that it heard.
  void hear(Events& events) {
    for (const Event& event : events) hear(event);
    events.clear();
  }

 private:
  void hear(const Event& event) {
    const auto at = streams_.find(event.stream.slot);
    const bool known = at != streams_.end() && at->second.key == event.stream;
    switch (event.kind) {
      case Event::Kind::kDown:
        streams_.clear();
        break;
      case Event::Kind::kOpened:
        VP_ASSERT(!event.service.empty() && event.bytes.size() <= protocol_limits::kMaxMetadata);
        add(event.stream);
        break;
      case Event::Kind::kData:
        if (!known) break;
        VP_ASSERT(!at->second.ended && !at->second.left && !event.bytes.empty());
        at->second.bytes += event.bytes.size();
        break;
      case Event::Kind::kEnd:
        if (known) at->second.ended = true;
        break;
      case Event::Kind::kAborted:
        // Nothing more may come, or be sent.
        if (known) at->second.finished = true;
        break;
      case Event::Kind::kReset:
      case Event::Kind::kClosed:
        if (known) streams_.erase(at);
        break;
      default:
        break;
    }
  }

  std::map<uint32_t, Held> streams_;  // by slot
};

}  // namespace virtproxy::fuzz
