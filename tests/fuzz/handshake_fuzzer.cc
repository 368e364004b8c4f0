// Greetings and any other bytes to a session that waits for one: whole and cut in two it must use
// the same bytes and come to the same state, and never fail an assertion.

#include "tests/fuzz/peer.h"

using namespace virtproxy;
using namespace virtproxy::fuzz;

namespace {

class Waiting {
 public:
  explicit Waiting(bool cut) : cut_(cut), session_(small_config(0)) { session_.transport_up(now_); }

  void step(Input& in) {
    const uint64_t what = in.number(1);
    switch (what % 4) {
      case 0: {
        const auto raw = in.bytes(what / 4);
        return give(raw, in);
      }
      case 1:
        return give(what / 4 % 4 == 0 ? peer_.greet() : peer_.greeting(in), in);
      case 2:
        now_ += std::chrono::milliseconds(what);
        peer_.hear(session_.plan(8192, now_, events_));
        return;
      default:
        // The beginning of one that never ends.
        Bytes part = peer_.greeting(in);
        part.resize(4 * what);
        return give(part, in);
    }
  }

  size_t used() const { return used_; }
  bool up() const { return session_.up(); }

 private:
  void give(std::span<const std::byte> bytes, Input& in) {
    const size_t at = in.number(2) % (bytes.size() + 1);
    take(cut_ ? bytes.first(at) : std::span<const std::byte>());
    take(cut_ ? bytes.subspan(at) : bytes);
  }

  void take(std::span<const std::byte> bytes) {
    pending_.insert(pending_.end(), bytes.begin(), bytes.end());
    const size_t used = virtproxy::feed(session_, pending_, now_, events_, [] { return true; });
    VP_ASSERT(used <= pending_.size());
    events_.clear();
    used_ += used;
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(used));
    VP_ASSERT(session_.up() || pending_.size() < kHelloSize);
  }

  bool cut_;
  Instant now_{1};
  V2Session session_;
  Events events_;
  Peer peer_;
  Bytes pending_;
  size_t used_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Input first(data, size);
  Input second = first;
  Waiting whole(false);
  Waiting cut(true);
  while (!first.empty()) {
    whole.step(first);
    cut.step(second);
    VP_ASSERT(whole.used() == cut.used() && whole.up() == cut.up());
  }
  return 0;
}
