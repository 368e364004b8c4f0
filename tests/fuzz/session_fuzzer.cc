// A peer that has greeted and then says anything: frames with a right check and arbitrary content,
// greetings, raw bytes, and whatever the driver may do in between. Oracles are the assertions of
// the core, the bytes that the session may make its driver hold, and the sanitizers.

#include <algorithm>

#include "tests/fuzz/peer.h"
#include "tests/fuzz/streams.h"

using namespace virtproxy;
using namespace virtproxy::fuzz;

namespace {

class World {
 public:
  explicit World(Input& in) : features_(in.number(1)), session_(small_config(features_)) {
    session_.transport_up(now_);
    greet();
  }

  void step(Input& in) {
    now_ += Duration(1000 * in.number(1));
    switch (in.number(1) % 12) {
      case 0:
      case 1:
      case 2:
      case 3:
        return give(peer_.frame(in, session_.uses_trailers(), (features_ & 2) != 0));
      case 4: {
        const auto raw = in.bytes(in.number(1));
        return give(raw);
      }
      case 5:
      case 6:
        return drive(in);
      case 7:
      case 8:
        write(1 + in.number(2));
        return;
      case 9:
        session_.tick(now_, events_);
        return;
      case 10:
        return give(peer_.greeting(in));
      default:
        now_ += std::chrono::milliseconds(100 * in.number(1));
        session_.tick(now_, events_);
        if (!session_.up()) greet();
    }
  }

 private:
  void write(uint64_t bytes) {
    peer_.hear(session_.plan(bytes, now_, events_));
    react();
  }

  void greet() {
    if (const auto due = session_.deadline()) now_ = std::max(now_, *due);
    write(65536);
    if (peer_.heard()) give(peer_.greet());
  }

  void drive(Input& in) {
    const uint64_t what = in.number(1) % 10;
    if (what == 0) {
      const auto priority = static_cast<Priority>(in.number(1) % kPriorities);
      if (const auto key = session_.open("service", priority, {})) streams_.add(*key);
      return;
    }
    if (what == 1 && in.number(1) == 7) return session_.go_away();
    if (streams_.empty()) return;
    const auto at = streams_.any(in);
    Held& held = at->second;
    const StreamKey stream = held.key;
    if (what <= 2 && !held.finished) {
      const uint64_t bytes = std::min<uint64_t>(in.number(2), session_.request_credit(stream));
      if (bytes > 0) session_.queue(stream, bytes);
    } else if (what == 3 && !held.finished) {
      held.finished = true;
      session_.end(stream);
    } else if (what == 4) {
      streams_.erase(at);
      session_.reset(stream, Fault::kAborted, events_);
    } else if (what <= 6 && held.bytes > 0) {
      const uint64_t bytes = 1 + in.number(2) % held.bytes;
      held.bytes -= bytes;
      session_.consumed(stream, bytes);
    } else if (what == 7 && held.ended && held.bytes == 0) {
      held.ended = false;
      session_.delivered(stream, events_);
    } else if (what == 8) {
      leave(held);
      session_.discard_input(stream);
    } else if (what == 9) {
      leave(held);
      held.finished = true;
      if (!session_.reset_after_data(stream, events_)) streams_.erase(at);
    }
    react();
  }

  // Its application takes nothing any more.
  static void leave(Held& held) {
    held.bytes = 0;
    held.left = true;
    held.ended = false;
  }

  void give(std::span<const std::byte> bytes) {
    pending_.insert(pending_.end(), bytes.begin(), bytes.end());
    const size_t used = feed(session_, pending_, now_, events_, [this] {
      react();
      return true;
    });
    VP_ASSERT(used <= pending_.size());
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(used));
    VP_ASSERT(pending_.size() <= kHelloSize + kFrame + 64);
  }

  void react() {
    streams_.hear(events_);
    const uint64_t held = streams_.held();
    VP_ASSERT(held <= kBudget);
    VP_ASSERT(streams_.size() <= kStreams);
    VP_ASSERT(session_.stats().held == held);
    VP_ASSERT(session_.stats().borrowed <= kBudget / 2);
  }

  uint64_t features_;
  Instant now_{1};
  V2Session session_;
  Events events_;
  Peer peer_;
  Bytes pending_;
  Streams streams_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input in(data, size);
  World world(in);
  while (!in.empty()) world.step(in);
  return 0;
}
