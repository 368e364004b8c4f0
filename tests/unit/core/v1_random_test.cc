// Random operations on two ends of version 1 over a link that drops, loses, inserts and changes
// bytes. Whatever happens, a stream's bytes arrive in order or the stream is reset; and when all is
// over nothing is left.
#include <gtest/gtest.h>

#include "tests/unit/core/seeds.h"
#include "tests/unit/core/v1_pair.h"

namespace virtproxy::test {
namespace {

class V1World {
 public:
  V1World(uint64_t seed, bool faults) : random_(seed), faults_(faults), pair_(modes(), modes()) {
    // A byte that is changed inside data is nobody's business in version 1.
    pair_.a.checks_content = pair_.b.checks_content = !faults;
    pair_.cuts = Random(seed);
    pair_.connect();
    pair_.run_for(milliseconds(300));
  }

  void run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFatalFailure(); ++i) operate();
  }
  void heal() {
    faults_ = false;
    for (ChoosingEnd* end : {&pair_.a, &pair_.b}) end->takes_at_once = true;
    for (int i = 0; i < 3; ++i) {
      for (ChoosingEnd* end : {&pair_.a, &pair_.b}) {
        for (auto& [id, t] : end->talks) {
          end->take(id, UINT64_MAX);
          // A dial that nobody ever answers has to be given up.
          if (t.fate == Fate::kOpen && (!t.ended || i == 1)) end->reset(id);
        }
      }
      pair_.run_for(seconds(20));
    }
    for (ChoosingEnd* end : {&pair_.a, &pair_.b}) {
      const Session::Stats stats = end->selector->stats();
      EXPECT_EQ(stats.streams, 0u);
      EXPECT_EQ(stats.held, 0u);
      EXPECT_EQ(stats.queued, 0u);
      EXPECT_EQ(stats.borrowed, 0u);
      closed += end->count(Fate::kClosed);
      cut += end->count(Fate::kResetByPeer) + end->count(Fate::kLost);
      skipped += end->saw(Glitch::kBytesSkipped);
    }
  }

  size_t closed = 0;
  size_t cut = 0;
  size_t skipped = 0;

 private:
  static ProtocolMode modes() { return ProtocolMode::kV1; }
  ChoosingEnd& some_end() { return below(random_, 2) != 0 ? pair_.a : pair_.b; }
  ChoosingEnd& other(ChoosingEnd& end) { return &end == &pair_.a ? pair_.b : pair_.a; }

  void operate() {
    ChoosingEnd& end = some_end();
    const uint64_t what = below(random_, 100);
    if (what < 8) {
      end.open(++next_id_, static_cast<Priority>(below(random_, kPriorities)));
    } else if (what < 60) {
      std::vector<uint64_t> open;
      for (auto it = end.talks.rbegin(); it != end.talks.rend() && open.size() < 20; ++it) {
        if (it->second.fate == Fate::kOpen) open.push_back(it->first);
      }
      if (open.empty()) return;
      const uint64_t id = open[below(random_, open.size())];
      if (what < 35) end.queue(id, 1 + below(random_, below(random_, 8) == 0 ? 50'000 : 300));
      if (what >= 35 && what < 50) end.take(id, 1 + below(random_, 20'000));
      if (what >= 50 && what < 54) end.end(id);
      if (what >= 54 && what < 56) end.reset(id);
      if (what >= 56) end.accept(id);
    } else if (what < 75) {
      end.write(1 + below(random_, 20'000), pair_.now);
    } else if (what < 93) {
      pair_.carry(end, other(end), below(random_, 20'000));
    } else if (what < 97) {
      pair_.now += milliseconds(below(random_, 300));
      end.tick(pair_.now);
    } else if (what < 98) {
      end.takes_at_once = below(random_, 2) != 0;
      end.accepts_at_once = below(random_, 3) != 0;
      end.refuses_with.reset();
      if (below(random_, 6) == 0) end.refuses_with = Fault::kRefused;
    } else if (faults_ && below(random_, 12) == 0) {
      break_something(end);
    }
  }

  void break_something(ChoosingEnd& end) {
    if (below(random_, 4) == 0) {
      pair_.drop_link();
      for (ChoosingEnd* e : {&pair_.a, &pair_.b}) {
        e->out.resize(below(random_, e->out.size() + 1));  // stale bytes
        e->transport_up(pair_.now);
      }
      return;
    }
    if (end.out.empty()) return;
    const size_t at = below(random_, end.out.size());
    const auto spot = end.out.begin() + static_cast<ptrdiff_t>(at);
    const size_t some = 1 + below(random_, std::min<size_t>(end.out.size() - at, 3000));
    const uint64_t how = below(random_, 3);
    if (how == 0) *spot ^= std::byte{1} << below(random_, 8);
    if (how == 1) end.out.erase(spot, spot + static_cast<ptrdiff_t>(some));
    if (how == 2) end.out.insert(spot, some % 10, static_cast<std::byte>(random_()));
  }

  Random random_;
  bool faults_;
  uint64_t next_id_ = 0;
  ChoosingPair pair_;
};

void run_seeds(uint64_t usual, bool faults) {
  size_t closed = 0;
  size_t cut = 0;
  size_t skipped = 0;
  const uint64_t count = seeds(usual);
  for (uint64_t seed = 1; seed <= count; ++seed) {
    V1World world(seed, faults);
    world.run(3000);
    world.heal();
    ASSERT_FALSE(testing::Test::HasFailure()) << "seed " << seed;
    closed += world.closed;
    cut += world.cut;
    skipped += world.skipped;
  }
  EXPECT_GT(closed, count) << "the test must exercise something";
  EXPECT_GT(cut, count);
  EXPECT_EQ(skipped > 0, faults);
}

TEST(V1RandomOperations, OverAPerfectLink) { run_seeds(60, false); }
TEST(V1RandomOperations, OverALineThatDropsFlipsLosesAndInsertsBytes) { run_seeds(120, true); }

}  // namespace
}  // namespace virtproxy::test
